// Threads that go on looking for work for a while after they had some.
//
// A layer of a sparse network takes some tens of microseconds, about as long as
// it takes to wake a thread that sleeps. So these spin between layers, and fall
// asleep when nothing came for about a millisecond.

#ifndef STR_JAX_WORKERS_H_
#define STR_JAX_WORKERS_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace str_jax {

using std::int64_t;
using std::uint64_t;

class Workers {
 public:
  // Never destroyed: its threads may outlive what is.
  static Workers& All() {
    static Workers* const workers = new Workers;
    return *workers;
  }

  // Calls work(0) to work(count - 1) on this thread and on threads - 1 others.
  // Where another call is under way, on this thread alone.
  template <typename Work>
  void Run(int64_t threads, int64_t count, const Work& work) {
    std::unique_lock<std::mutex> mine(one_at_a_time_, std::try_to_lock);
    if (threads <= 1 || count <= 1 || count > kMost || !mine.owns_lock()) {
      for (int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    try {
      for (; started_ < threads - 1; ++started_)
        std::thread([this] { Work_(); }).detach();
    } catch (const std::system_error&) {
      // No more threads are to be had: those that are there do the work.
    }
    call_ = [](const void* object, int64_t i) {
      (*static_cast<const Work*>(object))(i);
    };
    object_ = &work;
    done_.store(0);
    // Who sees these tickets sees what was stored before.
    tickets_.store(static_cast<uint64_t>(count) << kBits);
    if (asleep_.load() > 0) {
      std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    while (Take()) {
    }
    for (int64_t spins = 0; done_.load(std::memory_order_acquire) < count;
         ++spins)
      spins < kPatience ? Pause() : std::this_thread::yield();
  }

 private:
  static constexpr int kBits = 32;
  static constexpr int64_t kMost = int64_t{1} << 24;
  static constexpr int64_t kPatience = 1 << 14;  // pauses; about a millisecond

  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // Count above, next below: both are read and taken at once, so that a thread
  // that comes late cannot take a number of one call for one of another.
  static bool Left(uint64_t tickets) {
    return (tickets & 0xffffffff) < (tickets >> kBits);
  }

  bool Take() {
    if (!Left(tickets_.load(std::memory_order_acquire))) return false;
    const uint64_t ticket = tickets_.fetch_add(1);
    if (!Left(ticket)) return false;
    call_(object_, static_cast<int64_t>(ticket & 0xffffffff));
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void Work_() {
    for (int64_t idle = 0;;) {
      if (Take()) {
        idle = 0;
      } else if (++idle < kPatience) {
        Pause();
      } else {
        std::unique_lock<std::mutex> lock(sleep_);
        asleep_.fetch_add(1);
        wake_.wait(lock, [this] { return Left(tickets_.load()); });
        asleep_.fetch_sub(1);
        idle = 0;
      }
    }
  }

  std::mutex one_at_a_time_, sleep_;
  std::condition_variable wake_;
  int64_t started_ = 0;
  std::atomic<int64_t> done_{0}, asleep_{0};
  std::atomic<uint64_t> tickets_{0};
  void (*call_)(const void*, int64_t) = nullptr;
  const void* object_ = nullptr;
};

}  // namespace str_jax

#endif  // STR_JAX_WORKERS_H_
