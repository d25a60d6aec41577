// The functions that XLA calls, by their names; what they do is in the headers.

#include "images.h"
#include "product.h"
#include "window.h"

#ifndef STR_JAX_SOURCES
#define STR_JAX_SOURCES ""
#endif
// What the library was made of, for who loads it.
extern "C" const char* const StrJaxSources = STR_JAX_SOURCES;

namespace str_jax {

XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxProduct, ProductOf,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("input")
                                  .Attr<Numbers>("output")
                                  .Attr<bool>("dense")
                                  .Attr<int64_t>("vectors")
                                  .Attr<bool>("relu")
                                  .Attr<bool>("window_relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxPhases, PhasesOf,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("input")
                                  .Attr<Numbers>("output")
                                  .Attr<int64_t>("phases"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxDepthwise, DepthwiseOf,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("input")
                                  .Attr<Numbers>("output")
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxMaxPool, MaxPoolOf,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("input")
                                  .Attr<Numbers>("output"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxMean, MeanOf,
                              ffi::Ffi::Bind()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("input")
                                  .Attr<Numbers>("output"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxEnter, EnterOf,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("output")
                                  .Attr<int64_t>("phases"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(StrJaxLeave, LeaveOf,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("input"));

}  // namespace str_jax
