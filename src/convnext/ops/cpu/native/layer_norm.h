// LayerNorm over the channels of each position, without weight and bias (these are folded into the
// product that follows) or with them (stem).
#pragma once

#include "vec.h"

namespace convnext {
namespace {

struct Moments {
  float mean, scale;  // 1 / sqrt(variance + eps)
};

// Of `channels` true channels in rows padded to whole vectors. Two passes: the sum of squares about
// the mean does not cancel for rows far from zero. If it overflows the scale is NaN, as the row is in
// PyTorch: 0 would make it a plausible one.
template <int Lanes, int Rows>
CONVNEXT_INLINE void find_moments(const float* const (&rows)[Rows], Index channels, float eps,
                                  Moments (&found)[Rows]) {
  const Index whole = channels / Lanes * Lanes;
  Vec<Lanes> totals[Rows] = {}, squares[Rows] = {};
  for (Index c = 0; c < channels; c += Lanes)  // the padding is 0
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) totals[i] += load<Lanes>(rows[i] + c);
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) found[i].mean = sum<Lanes>(totals[i]) / (float)channels;
  for (Index c = 0; c < whole; c += Lanes)
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const Vec<Lanes> distance = load<Lanes>(rows[i] + c) - found[i].mean;
      squares[i] += distance * distance;
    }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) {
    if (whole < channels) {
      const Vec<Lanes> distance =
          keep_first<Lanes>(load<Lanes>(rows[i] + whole) - found[i].mean, channels - whole);
      squares[i] += distance * distance;
    }
    const float variance = sum<Lanes>(squares[i]) / (float)channels;
    found[i].scale = 1.0f / __builtin_sqrtf(variance + eps) + (variance - variance);
  }
}

// Calls visit(r, row, moments) for rows [first, first + Rows), which lie `stride` apart.
template <int Lanes, int Rows, class Visit>
CONVNEXT_INLINE void some_rows(const float* rows, Index stride, Index first, Index channels, float eps,
                               const Visit& visit) {
  const float* row[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) row[i] = rows + (first + i) * stride;
  Moments moments[Rows];
  find_moments<Lanes, Rows>(row, channels, eps, moments);
  for (int i = 0; i < Rows; i++) visit(first + i, row[i], moments[i]);
}

// Of `count` rows. Every sum waits for the one before it, so four rows are summed up side by side.
template <int Lanes, class Visit>
CONVNEXT_INLINE void each_row(const float* rows, Index stride, Index count, Index channels, float eps,
                              const Visit& visit) {
  Index first = 0;
  for (; first + 4 <= count; first += 4)
    some_rows<Lanes, 4>(rows, stride, first, channels, eps, visit);
  for (; first < count; first++) some_rows<Lanes, 1>(rows, stride, first, channels, eps, visit);
}

// The vector of normalised channels from c on, zero beyond the true ones.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> normalised(const float* row, Index c, Index channels, Moments m) {
  const Vec<Lanes> value = (load<Lanes>(row + c) - m.mean) * m.scale;
  return c + Lanes <= channels ? value : keep_first<Lanes>(value, channels - c);
}

// One row into columns [column, column + padded) of row r of an operand of the kernels.
template <class Kernels>
CONVNEXT_INLINE void normalise_into(const float* row, Moments m, Index channels, Index padded,
                                    typename Kernels::Element* operand, Index depth, Index r,
                                    Index column) {
  constexpr int L = Kernels::lanes, N = Kernels::channel_unit / L;
  Vec<L> values[N];
  Index c = 0;
  for (; c + N * L <= channels; c += N * L) {
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) values[i] = (load<L>(row + c + i * L) - m.mean) * m.scale;
    Kernels::template put<N>(operand, depth, r, column + c, values);
  }
  if (c >= padded) return;
#pragma GCC unroll 4
  for (int i = 0; i < N; i++) values[i] = normalised<L>(row, c + i * L, channels, m);
  Kernels::template put<N>(operand, depth, r, column + c, values);
}

}  // namespace
}  // namespace convnext
