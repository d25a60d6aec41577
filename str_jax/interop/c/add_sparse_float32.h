/* y += m x of the weights that are not zero: how many a row has, and the
   column of each. */
static inline void fastgrnn_add_sparse(const float *m, const uint16_t *counts,
                                       const fastgrnn_index *indices, int rows,
                                       const float *x, float *y) {
  for (int i = 0; i < rows; i++) {
    float sum = 0.0f;
    for (int n = counts[i]; n > 0; n--) sum += *m++ * x[*indices++];
    y[i] += sum;
  }
}
