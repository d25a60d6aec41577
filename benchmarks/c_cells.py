"""A FastGRNN's C header, compiled: for this machine, or an emulated Cortex-M.

The Cortex-M program is linked by arm-none-eabi-gcc with newlib's mathematics
and run by qemu-system-arm on the boards MPS2 AN386 (Cortex-M4, with a unit for
float32) and AN385 (Cortex-M3, without). QEMU counts instructions, not cycles:
with -icount shift=0 each takes a nanosecond, and the timer SysTick ticks every
40. The timer holds 670 million of them.
"""

from __future__ import annotations

import ctypes
import pathlib
import re
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np

COMPILER, SIZE, EMULATOR = TOOLS = (
  'arm-none-eabi-gcc',
  'arm-none-eabi-size',
  'qemu-system-arm',
)
BOARDS = {
  'cortex-m4': ('mps2-an386', '-mfloat-abi=hard', '-mfpu=fpv4-sp-d16'),
  'cortex-m3': ('mps2-an385', '-mfloat-abi=soft'),
}
FLAGS = ('-mthumb', '-std=gnu99', '-O2', '-nostartfiles')
SECTIONS = ('.vectors=0', '.text=0x400', '.data=0x20000000')
STRICT = ('-Wall', '-Wextra', '-Werror', '-pedantic', '-Wconversion')
_NANOSECONDS = 40  # of a tick at 25 MHz
_DRIVER = """#include "cell.h"
int classes(void);
int memory(void);
void run(const float *x, int count, int steps, float *logits, int *labels);
int classes(void) { return FASTGRNN_CLASSES; }
int memory(void) { return (int)sizeof(fastgrnn_state); }
void run(const float *x, int count, int steps, float *logits, int *labels) {
  static fastgrnn_state state;
  for (; count > 0; count--) {
    *labels++ = fastgrnn_classify(&state, x, steps, logits);
    logits += FASTGRNN_CLASSES;
    x += steps * FASTGRNN_INPUTS;
  }
}
"""
_PROGRAM = """
#include "cell.h"
#include "inputs.h"
#define WORD(address) (*(volatile uint32_t *)address)
static void ask(int operation, const void *argument) { /* of the debugger */
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
static void print(uint32_t word) {
  char text[] = "00000000 ";
  for (int i = 0; i < 8; i++)
    text[i] = "0123456789abcdef"[word >> (28 - 4 * i) & 15];
  ask(4, text);
}
static __attribute__((noinline)) void measure(void) {
  static fastgrnn_state state;
  union { float f[FASTGRNN_CLASSES]; uint32_t words[FASTGRNN_CLASSES]; } logits;
  WORD(0xE000E014) = 0xFFFFFF; /* SysTick, from its largest value down */
  WORD(0xE000E018) = 0;
  WORD(0xE000E010) = 5;
  while (!WORD(0xE000E018));
  const uint32_t before = WORD(0xE000E018);
  fastgrnn_classify(&state, inputs, STEPS, logits.f);
  print(before - WORD(0xE000E018));
  for (int i = 0; i < FASTGRNN_CLASSES; i++) print(logits.words[i]);
  ask(0x18, (void *)0x20026); /* exit */
}
static void reset(void) {
#ifdef __ARM_FP
  WORD(0xE000ED88) |= 15u << 20; /* switches the float unit on */
  __asm__ volatile("dsb\\nisb");
#endif
  measure();
}
__attribute__((section(".vectors"), used))
static void *const vectors[] = {(void *)0x20400000, (void *)reset};
"""


class Cell:
  """A header, compiled for this machine with a driver and loaded.

  Args:
    folder: to compile in; made where it is not there.
    header: its text.

  Raises:
    RuntimeError: the compiler refused, or warned.
  """

  def __init__(self, folder: pathlib.Path, header: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / 'cell.h').write_text(header)
    (folder / 'driver.c').write_text(_DRIVER)
    self.folder = folder
    compile_ = ('gcc', '-std=c99', *STRICT, '-O2', 'driver.c', '-lm')
    _run(folder, *compile_, '-shared', '-fPIC', '-o', 'cell.so')
    _run(folder, *compile_, '-c', '-o', 'cell.o')
    self.library = ctypes.CDLL(str(folder / 'cell.so'))

  def run(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of sequences, (count, steps, width, channels)."""
    x = np.ascontiguousarray(x, np.float32)
    logits = np.zeros((len(x), self.library.classes()), np.float32)
    labels = np.zeros(len(x), np.intc)
    at = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    self.library.run(at(x), len(x), x.shape[1], at(logits), at(labels))
    return logits, labels

  def bytes(self) -> dict[str, int]:
    """Of code, of constants, and of the memory that the caller gives."""
    size = _run(self.folder, 'size', '-A', 'cell.o')
    return {**_sections(size), 'memory': self.library.memory()}


def emulate(header: str, x: np.ndarray, cpu: str) -> dict[str, Any] | None:
  """Bytes, instructions and logits of a sequence.

  Args:
    header: text of a cell.
    x: the sequence, (steps, inputs).
    cpu: 'cortex-m4' or 'cortex-m3'.

  Returns:
    Bytes of the program's code and constants, the mathematics among them and
    the sequence not; instructions a step; logits. None where a tool is not
    installed.
  """
  if not all(map(shutil.which, TOOLS)):
    return None
  board, *flags = BOARDS[cpu]
  compiler = [COMPILER, f'-mcpu={cpu}', *flags, *FLAGS]
  starts = [f'-Wl,--section-start={section}' for section in SECTIONS]
  numbers = ', '.join(f'{value:.9e}f' for value in x.ravel())
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / 'cell.h').write_text(header)
    (folder / 'program.c').write_text(_PROGRAM)
    (folder / 'inputs.h').write_text(
      f'#define STEPS {len(x)}\nstatic const float inputs[] = {{{numbers}}};\n'
    )
    _run(folder, *compiler, 'program.c', *starts, '-lm', '-o', 'program.elf')
    size = _run(folder, SIZE, '-A', 'program.elf')
    words = _run(
      folder,
      *(EMULATOR, '-M', board, '-kernel', 'program.elf', '-icount', 'shift=0'),
      *('-semihosting-config', 'enable=on,target=native', '-display', 'none'),
      *('-serial', 'none', '-monitor', 'none'),
    ).split()
  ticks, *logits = np.array([int(word, 16) for word in words], np.uint32)
  return {
    'program': sum(_sections(size).values()) - x.nbytes,
    'instructions': round(int(ticks) * _NANOSECONDS / len(x)),
    'logits': np.array(logits).view(np.float32).tolist(),
  }


def _sections(output: str) -> dict[str, int]:
  """Bytes of code and of constants, from what `size -A` prints."""
  found = re.findall(r'^\.(text|rodata)\S* +(\d+)', output, re.MULTILINE)
  total = lambda kind: sum(int(n) for name, n in found if name == kind)
  return {'code': total('text'), 'constants': total('rodata')}


def _run(folder: pathlib.Path, *command: str) -> str:
  done = subprocess.run(
    command, cwd=folder, capture_output=True, text=True, timeout=300
  )
  if done.returncode:
    raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr}')
  return done.stdout + done.stderr
