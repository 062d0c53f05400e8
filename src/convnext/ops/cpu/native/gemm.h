// Matrix products on vector registers: for fp32 and for pairs of bf16, 8 or 16 lanes.
//
//   operand   (rows, depth), row by row
//   weights   [panel][depth / group][2 * lanes columns][group]
//
// `Rows` x 2 vectors of sums stay in registers over the inner loop; each step reads two vectors of a
// panel and one broadcast word of each row. Panels are the outer loop and rows the inner one: a chunk
// of a panel stays in the first-level cache while the rows pass by from the second.
#pragma once

#include "product.h"

namespace convnext {
namespace {

// Adds the products of one word of each row.
template <class Dot, int Lanes, int Rows>
CONVNEXT_INLINE void add_products(Vec<Lanes> (&sums)[Rows][2], const char* a, Index a_stride,
                                  const char* weights) {
  const Vec<Lanes> left = load_words<Lanes>(weights);
  const Vec<Lanes> right = load_words<Lanes>(weights + 4 * Lanes);
#pragma GCC unroll 32
  for (int r = 0; r < Rows; r++) {
    const Vec<Lanes> value = broadcast_word<Lanes>(a + r * a_stride);
    sums[r][0] = Dot::template step<Lanes>(sums[r][0], value, left);
    sums[r][1] = Dot::template step<Lanes>(sums[r][1], value, right);
  }
}

// Over `words` words of rows a_stride bytes apart, `Step` in a round; sums start from one place and end in
// another. Never inlined: among other code the compiler would spill sums in the inner loop.
template <class Dot, int Lanes, int Step, int Rows>
__attribute__((noinline)) void multiply_rows(const char* a, Index a_stride, Index words,
                                             const char* weights, const float* start,
                                             Index start_stride, float* out) {
  Vec<Lanes> sums[Rows][2];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; r++) {
    sums[r][0] = load<Lanes>(start + r * start_stride);
    sums[r][1] = load<Lanes>(start + r * start_stride + Lanes);
  }
  for (; words >= Step; words -= Step, a += 4 * Step, weights += 8 * Lanes * Step) {
#pragma GCC unroll 8
    for (int k = 0; k < Step; k++)
      add_products<Dot, Lanes, Rows>(sums, a + 4 * k, a_stride, weights + 8 * Lanes * k);
  }
  for (; words > 0; words--, a += 4, weights += 8 * Lanes)
    add_products<Dot, Lanes, Rows>(sums, a, a_stride, weights);
#pragma GCC unroll 32
  for (int r = 0; r < Rows; r++) {
    store<Lanes>(out + 2 * r * Lanes, sums[r][0]);
    store<Lanes>(out + (2 * r + 1) * Lanes, sums[r][1]);
  }
}

// As above for a number of rows known at run time, 1 to Rows.
template <class Dot, int Lanes, int Step, int Rows, class... Arguments>
CONVNEXT_INLINE void multiply_any_rows(Index rows, Arguments... arguments) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_any_rows<Dot, Lanes, Step, Rows - 1>(rows, arguments...);
  }
  multiply_rows<Dot, Lanes, Step, Rows>(arguments...);
}

// The kernels of block.h on vector registers. A set derives from this with its tilings; Tiling has
// lanes, register_rows (of sums), step_words (that a round of the inner loop takes of each row) and
// chunk_words (of a panel in the first-level cache).
template <class Tiling, class Dot>
struct VectorKernels {
  using Element = typename Dot::Element;
  using Integers = void;
  static constexpr int lanes = Tiling::lanes;
  static constexpr int panel = 2 * lanes;
  static constexpr int channel_unit = lanes;
  static constexpr int depth_unit = Dot::group;
  static constexpr int row_unit = 1;

  struct State {};
  static void enter(State&) {}
  static void leave(State&) {}

  // One more cache line than whole vectors: rows must not lie a power of two apart.
  static Index row_stride(Index depth) {
    return round_up(depth, lanes) + 64 / (Index)sizeof(Element);
  }

  static Index operand_size(Index rows, Index depth) { return rows * row_stride(depth); }

  template <int N>
  static CONVNEXT_INLINE void put(Element* operand, Index depth, Index row, Index column,
                                  const Vec<lanes> (&values)[N]) {
    CONVNEXT_CHECK(row >= 0 && column >= 0 && column + N * lanes <= row_stride(depth));
    Element* to = operand + row * row_stride(depth) + column;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) Dot::template write<lanes>(to + i * lanes, values[i]);
  }

  template <int N>
  static CONVNEXT_INLINE void get(const Element* operand, Index depth, Index row, Index column,
                                  Vec<lanes> (&values)[N]) {
    CONVNEXT_CHECK(row >= 0 && column >= 0 && column + N * lanes <= row_stride(depth));
    const Element* from = operand + row * row_stride(depth) + column;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) values[i] = Dot::template read<lanes>(from + i * lanes);
  }

  template <class Finish>
  static void multiply(const Product<Element>& p, const Finish& finish) {
    const Index words = round_up(p.depth, Dot::group) / Dot::group;
    const Index chunks = larger(1, (words + Tiling::chunk_words - 1) / Tiling::chunk_words);
    for (Index i = 0; i < p.panels; i++)
      for (Index c = 0; c < chunks; c++) {
        const Index first = words * c / chunks, last = words * (c + 1) / chunks;
        panel_chunk(p, i, first, last - first, p.begin && c == 0, p.end && c + 1 == chunks, finish);
      }
  }

 private:
  // Rows in blocks of register_rows, or one fewer in some: no block is much shorter than the others,
  // for short ones take nearly as long.
  template <class Finish>
  static void panel_chunk(const Product<Element>& p, Index i, Index first, Index words, bool begin,
                          bool end, const Finish& finish) {
    const Index a_stride = row_stride(p.depth) * (Index)sizeof(Element);
    const char* a = (const char*)p.a + 4 * first;
    const char* weights = (const char*)(p.weights + i * p.panel_stride) + 4 * panel * first;
    float* partial = p.partial + (p.begin && p.end ? 0 : i * p.rows * panel);
    const Index blocks = (p.rows + Tiling::register_rows - 1) / Tiling::register_rows;
    for (Index b = 0; b < blocks; b++) {
      const Index r0 = p.rows * b / blocks, rows = p.rows * (b + 1) / blocks - r0;
      const float* start = begin ? p.bias + i * panel : partial + r0 * panel;
      alignas(64) float finished[Tiling::register_rows * panel];
      multiply_any_rows<Dot, lanes, Tiling::step_words, Tiling::register_rows>(
          rows, a + r0 * a_stride, a_stride, words, weights, start, begin ? 0 : panel,
          end ? finished : partial + r0 * panel);
      for (Index r = 0; end && r < rows; r++) {
        const float* sums = finished + r * panel;
        Vec<lanes> v[2] = {load<lanes>(sums), load<lanes>(sums + lanes)};
        finish(r0 + r, i, v);
      }
    }
  }
};

}  // namespace
}  // namespace convnext
