/* The same of the weights that are not zero: how many a row has, and the
   column of each. */
static inline void fastgrnn_add_sparse(const int8_t *m, float scale,
                                       const uint8_t *factors,
                                       const uint16_t *counts,
                                       const fastgrnn_index *indices, int rows,
                                       int columns, const float *x, int8_t *q,
                                       float *y) {
  scale *= fastgrnn_round(x, columns, q);
  for (int i = 0; i < rows; i++) {
    int32_t sum = 0;
    for (int n = counts[i]; n > 0; n--) sum += *m++ * q[*indices++];
    y[i] += scale * (float)factors[i] * (float)sum;
  }
}
