// A block whose two products are of 8-bit integers; everything else is as in block.h and grn.h, whose
// functions are overloaded here for its weights.
//
//   A      LayerNorm times a factor of each channel, each row with a scale of its own; 128 means 0
//   H      GELU (and GRN), a scale for each channel and a zero point for all
//   sums   begin with what takes the zero points away: -zero * sum over k of W
//
// Factors, scales of channels and the zero point were found when the network was calibrated.
#pragma once

#include "block.h"
#include "quantise.h"

namespace convnext {
namespace {

template <class Integers>
constexpr bool exist = true;
template <>
constexpr bool exist<void> = false;

template <class Kernels>
constexpr bool has_integers = exist<typename Kernels::Integers>;

// A matrix of 8-bit integers, where the sums of its outputs begin (int32), and what they stand for:
// sum * unit + bias.
template <class Element>
struct IntegerMatrix {
  const Element* w;
  const float *start, *unit, *bias;
};

template <class Kernels>
struct QuantisedWeights {
  using Integers = typename Kernels::Integers;
  using Matrix = IntegerMatrix<typename Integers::Element>;

  const float *taps, *taps_bias;  // (49, C), (C)
  const float* factors;           // (C) of the normalised channels
  Matrix first;                   // K = C, N = hidden
  const float* grn_gamma;         // (hidden), null without GRN
  const float* hidden_inverse;    // (hidden) 1 / scale
  const float* hidden_zero;       // (1)
  Matrix second;                  // K = hidden, N = C

  static constexpr Index slice_unit = Kernels::panel > Integers::depth_unit ? (Index)Kernels::panel
                                                                            : Integers::depth_unit;
  static constexpr Index slice = Integers::hidden_slice;
};

// Of integers in the memory of a tile's operand.
template <class Kernels>
CONVNEXT_INLINE typename Kernels::Integers::Element* integers_in(typename Kernels::Element* operand) {
  return (typename Kernels::Integers::Element*)operand;
}

template <class Kernels>
void mix(const BlockTask<Kernels>& task, const QuantisedWeights<Kernels>& w, Index first, Index rows,
         const Tile<Kernels>& t, Clock& clock) {
  const Index padded = task.x.channels, stride = Tile<Kernels>::mixed_stride(padded);
  depthwise<Kernels>(task.x, first, rows, w.taps, w.taps_bias, t.mixed, stride);
  clock.lap(PART_DEPTHWISE);
  const auto quantise = [&](Index r, const float* row, Moments m) __attribute__((always_inline)) {
    t.scales[r] = quantise_row<Kernels>(row, m, w.factors, padded, integers_in<Kernels>(t.a), r);
  };
  each_row<Kernels::lanes>(t.mixed, stride, rows, task.channels, task.eps, quantise);
  clock.lap(PART_NORM);
}

template <class Kernels, class Finish>
CONVNEXT_INLINE void first_product(const BlockTask<Kernels>& task,
                                   const QuantisedWeights<Kernels>& w, Index rows, Index first,
                                   Index columns, const Tile<Kernels>& t, const Finish& finish) {
  constexpr int L = Kernels::lanes;
  using Integers = typename Kernels::Integers;
  const Index depth = task.x.channels, padded = round_up(depth, Integers::depth_unit);
  const float *unit = w.first.unit + first, *bias = w.first.bias + first;
  const Product<typename Integers::Element> product{
      integers_in<Kernels>(t.a), rows, depth, w.first.w + first * padded, padded * Kernels::panel,
      columns / Kernels::panel, w.first.start + first, t.passing, true, true};
  Integers::multiply(product, [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
    for (int i = 0; i < 2; i++) {
      const Index c = p * Kernels::panel + i * L;
      v[i] = dequantised<L>(v[i], load<L>(unit + c) * t.scales[r], load<L>(bias + c));
    }
    finish(r, p, v);
  });
}

template <class Kernels>
CONVNEXT_INLINE void put_hidden(const QuantisedWeights<Kernels>& w, const Tile<Kernels>& t,
                                Index first, Index depth, Index r, Index column,
                                const Vec<Kernels::lanes> (&v)[2]) {
  constexpr int L = Kernels::lanes;
  const float* inverse = w.hidden_inverse + first + column;
  const Vec<L> words[2] = {quantised<L>(v[0], load<L>(inverse), *w.hidden_zero),
                           quantised<L>(v[1], load<L>(inverse + L), *w.hidden_zero)};
  Kernels::Integers::template put<2>(integers_in<Kernels>(t.hidden), depth, r, column, words);
}

// Integers have no NaN: it comes back with the scale of the row.
template <class Kernels>
void reduce(const BlockTask<Kernels>& task, const QuantisedWeights<Kernels>& w, Index rows,
            Index first, Index columns, const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes;
  using Integers = typename Kernels::Integers;
  const Index panels = (task.x.channels + Kernels::panel - 1) / Kernels::panel;
  const Index padded = round_up(task.hidden, Integers::depth_unit);
  const Product<typename Integers::Element> product{
      integers_in<Kernels>(t.hidden), rows, columns, w.second.w + first * Kernels::panel,
      padded * Kernels::panel, panels, w.second.start, t.partial, first == 0,
      first + columns == task.hidden};
  Integers::multiply(product, [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
    const float nan_or_zero = t.scales[r] - t.scales[r];
    for (int i = 0; i < 2; i++) {
      const Index c = p * Kernels::panel + i * L, offset = t.offsets[r] + c;
      if (c >= task.x.channels) continue;
      const Vec<L> bias = load<L>(w.second.bias + c) + nan_or_zero;
      store<L>(task.y.data + offset, load<L>(task.x.data + offset) +
                                         dequantised<L>(v[i], load<L>(w.second.unit + c), bias));
    }
  });
}

// Of GRN's second pass: NaN anywhere in an image has reached the scale of its channels.
template <class Kernels>
void note_nan(const QuantisedWeights<Kernels>&, const float* scale, Index hidden, Index rows,
              const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes;
  Vec<L> differences{};
  for (Index c = 0; c < hidden; c += L) differences += load<L>(scale + c) - load<L>(scale + c);
  const float nan_or_zero = sum<L>(differences);
  for (Index r = 0; r < rows; r++) t.scales[r] = nan_or_zero;
}

}  // namespace
}  // namespace convnext
