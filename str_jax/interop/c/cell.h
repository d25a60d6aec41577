/* $title

   Written by str_jax. $shapes:
   $sentence

     both = W x + U h,   z = sigmoid(both + b_z),   c = tanh(both + b_h)
     h   <- (zeta (1 - z) + nu) c + z h

   zeta and nu are here after their sigmoids. Matrices are (outputs, inputs),
   row by row. Inputs are finite and as the network was trained on: normalised.

   Usage, for a whole sequence, or step by step:

     static fastgrnn_state state;
     float x[STEPS * FASTGRNN_INPUTS], logits[FASTGRNN_CLASSES];
     int label = fastgrnn_classify(&state, x, STEPS, logits);

     fastgrnn_start(&state);
     fastgrnn_step(&state, x);  FASTGRNN_INPUTS numbers, again for every step
     fastgrnn_logits(&state, logits);

   C99 or C++, with math.h alone (link with -lm); allocates nothing. */

#ifndef FASTGRNN_H
#define FASTGRNN_H

#include <math.h>
#include <stdint.h>

#define FASTGRNN_INPUTS $inputs
#define FASTGRNN_HIDDEN $hidden
#define FASTGRNN_CLASSES $classes
#define FASTGRNN_ZETA $zeta
#define FASTGRNN_NU $nu

$constants

/* All memory that it needs: the state h, and scratch. */
typedef struct {
  float h[FASTGRNN_HIDDEN];
  float both[FASTGRNN_HIDDEN]; /* W x + U h */$scratch
} fastgrnn_state;

$functions

static inline float fastgrnn_sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

/* The state before the first step. */
static inline void fastgrnn_start(fastgrnn_state *s) {
  for (int i = 0; i < FASTGRNN_HIDDEN; i++) s->h[i] = 0.0f;
}

/* One step: the state after FASTGRNN_INPUTS more numbers. */
static inline void fastgrnn_step(fastgrnn_state *s, const float *x) {
  for (int i = 0; i < FASTGRNN_HIDDEN; i++) s->both[i] = 0.0f;
$products
  for (int i = 0; i < FASTGRNN_HIDDEN; i++) {
    const float z = fastgrnn_sigmoid(s->both[i] + fastgrnn_b_z[i]);
    const float c = tanhf(s->both[i] + fastgrnn_b_h[i]);
    s->h[i] = (FASTGRNN_ZETA * (1.0f - z) + FASTGRNN_NU) * c + z * s->h[i];
  }
}

/* The classifier of the state. */
static inline void fastgrnn_logits(fastgrnn_state *s, float *logits) {
  for (int i = 0; i < FASTGRNN_CLASSES; i++) logits[i] = $bias;
$classifier
}

/* A whole sequence, (steps, FASTGRNN_INPUTS): its logits, and the class of
   the largest. */
static inline int fastgrnn_classify(fastgrnn_state *s, const float *x,
                                    int steps, float *logits) {
  int best = 0;
  fastgrnn_start(s);
  for (; steps > 0; steps--, x += FASTGRNN_INPUTS) fastgrnn_step(s, x);
  fastgrnn_logits(s, logits);
  for (int i = 1; i < FASTGRNN_CLASSES; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

#endif
