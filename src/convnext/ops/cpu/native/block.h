// One ConvNeXt block on a range of positions, fused tile by tile so that everything between the
// depthwise convolution and the residual sum stays in the cache of one core:
//
//   tile of R positions -> depthwise 7x7 -> LayerNorm -> A (R, C)
//   for each slice of S hidden columns:  H (R, S) = GELU(A @ W1 + b1);  partial (R, C) += H @ W2
//   y = x + b2 + partial
//
// KERNELS, the template argument of everything here, tells how this is done on one instruction set.
// It is a struct in an anonymous namespace of that set's translation unit, with these members:
//
//   static constexpr int lanes;          fp32 lanes of a vector
//   static constexpr int panel;          columns of a weight panel, 2 * lanes
//   static constexpr int channel_unit;   the channels of maps are padded to a multiple of this
//   static constexpr int depth_unit;     K of every product is padded to a multiple of this
//   static constexpr int row_unit;       operands have room for rows up to a multiple of this
//   static constexpr int run;            positions of one depthwise step (1 row of accumulators)
//   static constexpr Index tile_rows;    R, at most
//   static constexpr Index hidden_slice; S, at most (a multiple of panel)
//   static constexpr Index group_positions;  images go through a stage together up to so many
//                                        positions, so that each weight read serves all of them
//   static constexpr Index grn_positions;    the same for the hidden maps that GRN keeps
//   using Stream;                        of the maps between blocks: float, Bf16 or Half
//   using Mixing;                        what depthwise convolutions are computed in (depthwise.h)
//   using Element;                       of operands and packed weights, and of `get` and `put`
//
//   An OPERAND is the left matrix (rows, depth) of a product, in a layout of the set's own; the buffer
//   has operand_size elements and starts on a cache line. Row r is written piecewise, N vectors at a
//   column that is a multiple of N * lanes; N is channel_unit / lanes (LayerNorm, im2col) or
//   panel / lanes (the epilogue of GEMM1). Rows that were never written may hold anything.
//   static Index operand_size(Index rows, Index depth);
//   template <int N> static void put(Element* operand, Index depth, Index row, Index column,
//                                    const Vec<lanes> (&values)[N]);
//   template <int N> static void get(const Element* operand, Index depth, Index row, Index column,
//                                    Vec<lanes> (&values)[N]);
//
//   static Vec<lanes> gelu(const Vec<lanes>&);
//
//   PRODUCT (product.h): for each panel p and row r,
//       v[2] = sum over k of a(r, k) * w(p; k, :)  +  (begin ? bias of the panel : partial(r, p))
//   then `finish(r, p, v)` if end, else partial(r, p) = v. The order of panels and rows and the layout
//   of `partial` are the set's own. Every (r, p) with r < rows comes to `finish` once, and `finish`
//   may change v. It holds copies, not references: it runs for each row between other work, and
//   would look up what a reference leads to each time.
//   template <class Finish> static void multiply(const Product<Element>&, const Finish& finish);
//
//   using Integers;   void, or the same for products of 8-bit integers (quantised_block.h): lanes, panel,
//   depth_unit, hidden_slice, operand_size, put and multiply, where words of vectors are integers and
//   Element holds one (uint8_t or int16_t). Their operands need no more bytes than those of
//   floating-point numbers.
//
//   static void enter(State&), leave(State&), struct State: around the work of one thread in one call
//   (AMX: tile configuration saved and loaded, restored); empty elsewhere.
#pragma once

#include "depthwise.h"
#include "layer_norm.h"
#include "product.h"
#include "tile.h"

namespace convnext {
namespace {

template <class Kernels>
struct BlockWeights {
  const float *taps, *taps_bias;           // (49, C), (C)
  const typename Kernels::Element* w1;     // K = C, N = hidden
  const float *b1, *grn_gamma;             // (hidden), null without GRN
  const typename Kernels::Element* w2;     // K = hidden, N = C
  const float* b2;                         // (C)

  static constexpr Index slice_unit = Kernels::panel, slice = Kernels::hidden_slice;
};

// What a block computes on.
template <class Kernels>
struct BlockTask {
  using Stream = typename Kernels::Stream;
  Map<Stream> x, y;     // of the same shape
  Index channels;       // true ones, C
  Index hidden;         // 4 C, padded to panels
  float eps;
};

// Depthwise convolution and LayerNorm of positions [first, first + rows) into the operand t.a.
template <class Kernels>
void mix(const BlockTask<Kernels>& task, const BlockWeights<Kernels>& w, Index first, Index rows,
         const Tile<Kernels>& t, Clock& clock) {
  const Index padded = task.x.channels, stride = Tile<Kernels>::mixed_stride(padded);
  depthwise<Kernels>(task.x, first, rows, w.taps, w.taps_bias, t.mixed, stride);
  clock.lap(PART_DEPTHWISE);
  const auto normalise = [&](Index r, const float* row, Moments m) __attribute__((always_inline)) {
    normalise_into<Kernels>(row, m, task.channels, padded, t.a, padded, r, 0);
  };
  each_row<Kernels::lanes>(t.mixed, stride, rows, task.channels, task.eps, normalise);
  clock.lap(PART_NORM);
}

// finish(r, p, v) gets hidden columns [first, first + columns) of the rows before GELU.
template <class Kernels, class Finish>
CONVNEXT_INLINE void first_product(const BlockTask<Kernels>& task, const BlockWeights<Kernels>& w,
                                   Index rows, Index first, Index columns, const Tile<Kernels>& t,
                                   const Finish& finish) {
  const Index depth = task.x.channels;
  const Product<typename Kernels::Element> product{
      t.a, rows, depth, w.w1 + first * depth, depth * Kernels::panel, columns / Kernels::panel,
      w.b1 + first, t.passing, true, true};
  Kernels::multiply(product, finish);
}

// Columns from `column` on of row r of t.hidden, which has `depth` hidden columns from `first` on.
template <class Kernels>
CONVNEXT_INLINE void put_hidden(const BlockWeights<Kernels>&, const Tile<Kernels>& t, Index /*first*/,
                                Index depth, Index r, Index column,
                                const Vec<Kernels::lanes> (&v)[2]) {
  Kernels::template put<2>(t.hidden, depth, r, column, v);
}

// Hidden columns of the rows, as an operand of that depth in t.hidden.
template <class Kernels, class Weights>
void expand(const BlockTask<Kernels>& task, const Weights& w, Index rows, Index first, Index columns,
            const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes;
  const auto finish = [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
    v[0] = Kernels::gelu(v[0]);
    v[1] = Kernels::gelu(v[1]);
    put_hidden(w, t, first, columns, r, p * Kernels::panel, v);
  };
  first_product(task, w, rows, first, columns, t, finish);
}

// Adds the share of hidden columns [first, first + columns), which are in t.hidden; with the last of
// them y = x + the sum.
template <class Kernels>
void reduce(const BlockTask<Kernels>& task, const BlockWeights<Kernels>& w, Index rows, Index first,
            Index columns, const Tile<Kernels>& t) {
  constexpr int L = Kernels::lanes;
  const Index panels = (task.x.channels + Kernels::panel - 1) / Kernels::panel;
  const Product<typename Kernels::Element> product{
      t.hidden, rows, columns, w.w2 + first * Kernels::panel, task.hidden * Kernels::panel, panels,
      w.b2, t.partial, first == 0, first + columns == task.hidden};
  Kernels::multiply(product, [=](Index r, Index p, Vec<L>(&v)[2]) __attribute__((always_inline)) {
    const Index c = p * Kernels::panel, offset = t.offsets[r] + c;
    for (int i = 0; i < 2; i++)
      if (c + i * L < task.x.channels)
        store<L>(task.y.data + offset + i * L, load<L>(task.x.data + offset + i * L) + v[i]);
  });
}

template <class Kernels, class Weights>
void block(const BlockTask<Kernels>& task, const Weights& w, Range range, const Tile<Kernels>& t,
           Clock& clock) {
  const Tiles tiles(range, task.x.width, Kernels::tile_rows);
  const Slices slices(task.hidden, Weights::slice_unit, Weights::slice);
  for (Index first = range.first; first < range.last; first += tiles.step) {
    const Index rows = smaller(tiles.step, range.last - first);
    mix(task, w, first, rows, t, clock);
    t.locate(task.x, first, rows);
    for (Index s = 0; s < slices.count; s++) {
      const Range slice = slices[s];
      expand(task, w, rows, slice.first, slice.last - slice.first, t);
      clock.lap(PART_EXPAND);
      reduce(task, w, rows, slice.first, slice.last - slice.first, t);
      clock.lap(PART_REDUCE);
    }
  }
}

}  // namespace
}  // namespace convnext
