// LayerNorm over the channels of each position, without weight and bias (these are folded into the
// product that follows) or with them (stem).
#pragma once

#include "vec.h"

namespace convnext {
namespace {

struct Moments {
  float mean, scale;  // 1 / sqrt(variance + eps)
};

// Of `channels` true channels in a row padded to whole vectors. Two passes: the sum of squares about
// the mean does not cancel for rows far from zero. If it overflows the scale is NaN, as the row is in
// PyTorch: 0 would make it a plausible one.
template <int Lanes>
CONVNEXT_INLINE Moments moments(const float* row, Index channels, float eps) {
  const Index whole = channels / Lanes * Lanes;
  Vec<Lanes> total{}, squares{};
#pragma GCC unroll 4
  for (Index c = 0; c < channels; c += Lanes) total += load<Lanes>(row + c);  // the padding is 0
  const float mean = sum<Lanes>(total) / (float)channels;
#pragma GCC unroll 4
  for (Index c = 0; c < whole; c += Lanes) {
    const Vec<Lanes> distance = load<Lanes>(row + c) - mean;
    squares += distance * distance;
  }
  if (whole < channels) {
    const Vec<Lanes> distance = keep_first<Lanes>(load<Lanes>(row + whole) - mean, channels - whole);
    squares += distance * distance;
  }
  const float variance = sum<Lanes>(squares) / (float)channels;
  return {mean, 1.0f / __builtin_sqrtf(variance + eps) + (variance - variance)};
}

// The vector of normalised channels from c on, zero beyond the true ones.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> normalised(const float* row, Index c, Index channels, Moments m) {
  const Vec<Lanes> value = (load<Lanes>(row + c) - m.mean) * m.scale;
  return c + Lanes <= channels ? value : keep_first<Lanes>(value, channels - c);
}

// One row into columns [column, column + padded) of row r of an operand of the kernels.
template <class Kernels>
CONVNEXT_INLINE void normalise_into(const float* row, Index channels, Index padded, float eps,
                                    typename Kernels::Element* operand, Index depth, Index r,
                                    Index column) {
  constexpr int L = Kernels::lanes, N = Kernels::channel_unit / L;
  const Moments m = moments<L>(row, channels, eps);
  for (Index c = 0; c < padded; c += N * L) {
    Vec<L> values[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) values[i] = normalised<L>(row, c + i * L, channels, m);
    Kernels::template put<N>(operand, depth, r, column + c, values);
  }
}

}  // namespace
}  // namespace convnext
