// From fp32 to 8-bit integers and back. Integers pass in the words of vectors of fp32.
#pragma once

#include "layer_norm.h"

namespace convnext {
namespace {

// Adding it rounds to an integer, ties to even, and leaves that in the low bits.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
constexpr float kSmallestTop = 1e-30f;   // so that a row of zeros has a scale

// Numbers as bytes: round(x * inverse) + zero, cut off to 0 ... 255.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> quantised(const Vec<Lanes>& x, const Vec<Lanes>& inverse, float zero) {
  const Vec<Lanes> low = broadcast<Lanes>(-zero), high = broadcast<Lanes>(255 - zero);
  Vec<Lanes> steps = x * inverse;
  steps = steps > low ? steps : low;
  steps = steps < high ? steps : high;
  return (Vec<Lanes>)((typename VecTypes<Lanes>::Ints)(steps + kRounder) + (int32_t)zero);
}

// What a sum of integer products stands for: sum * unit + bias.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> dequantised(const Vec<Lanes>& sum, const Vec<Lanes>& unit,
                                       const Vec<Lanes>& bias) {
  return __builtin_convertvector((typename VecTypes<Lanes>::Ints)sum, Vec<Lanes>) * unit + bias;
}

template <int Lanes>
CONVNEXT_INLINE float largest_lane(const Vec<Lanes>& v) {
  if constexpr (Lanes == 1) {
    return v[0];
  } else {
    Vec<Lanes / 2> half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return largest_lane<Lanes / 2>(half[0] > half[1] ? half[0] : half[1]);
  }
}

// LayerNorm of a row, times factors of the channels (0 for those of the padding), into row r of an
// operand of integers. The largest magnitude becomes 127; 128 stands for 0. Returns what a step of 1 stands for; NaN if the
// row had NaN or infinities, which the integers cannot tell.
template <class Kernels>
CONVNEXT_INLINE float quantise_row(const float* row, Moments m, const float* factors, Index padded,
                                   typename Kernels::Integers::Element* operand, Index r) {
  constexpr int L = Kernels::lanes, N = Kernels::channel_unit / L;
  using Ints = typename VecTypes<L>::Ints;
  const auto scaled = [=](Index c) __attribute__((always_inline)) {
    return (load<L>(row + c) - m.mean) * m.scale * load<L>(factors + c);
  };
  Vec<L> top{};
  for (Index c = 0; c < padded; c += L) {
    const Vec<L> value = scaled(c);
    const Vec<L> magnitude = (Vec<L>)((Ints)value & 0x7fffffff);
    top = magnitude > top ? magnitude : top;
  }
  const float largest = largest_lane<L>(top);
  const float range = largest > kSmallestTop ? largest : kSmallestTop;
  const float inverse = 127.0f / range;
  for (Index c = 0; c < padded; c += N * L) {
    Vec<L> words[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) {
      const Vec<L> steps = scaled(c + i * L) * inverse;
      words[i] = (Vec<L>)((Ints)(steps + kRounder) + 128);
    }
    Kernels::Integers::template put<N>(operand, padded, r, c, words);
  }
  return range / 127.0f + (m.scale - m.scale);
}

}  // namespace
}  // namespace convnext
