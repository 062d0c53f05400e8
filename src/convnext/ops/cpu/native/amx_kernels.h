// The kernel sets AMX_BF16 and AMX_BF16_HALF (block.h says what each member means): products of bf16
// on tile registers. Maps are stored in bf16, and everything else is in fp32 on AVX-512; or they are
// stored in fp16, and so are the sums of depthwise convolutions, two channels in the place of one.
//
// An operand is an array of tiles of 16 rows x 32 columns. Depthwise convolution and GELU write it
// as they finish: a row's 32 columns are one cache line.
#pragma once

#include "amx_gelu.h"
#include "amx_gemm.h"
#include "bf16.h"
#include "depthwise.h"
#include "dot.h"

namespace convnext {
namespace {

template <class Number, class Sums>
struct AmxKernels {
  using Stream = Number;
  using Mixing = Sums;
  using Element = Bf16;
  using Integers = void;
  static constexpr int lanes = 16;
  static constexpr int panel = 32;
  static constexpr int channel_unit = 32;
  static constexpr int depth_unit = Bf16Numbers::depth;
  static constexpr int row_unit = kTileRows;

  // 14 sums and 7 taps in the 32 registers of the depthwise convolution.
  static constexpr int run = 14;
  // For 384 channels: operand 0.34 MB, hidden slice 0.46 MB, waiting sums 0.69 MB of the 2 MB of
  // the second-level cache. More rows would use each read of the weights better, but not fit.
  static constexpr Index tile_rows = 448;
  static constexpr Index hidden_slice = kChunkTiles * Bf16Numbers::depth;
  // At 224 px: one image in the first stage, 2 in the second, 8 in the third.
  static constexpr Index group_positions = 1568;
  static constexpr Index grn_positions = 400;

  using State = TileConfig;
  static void enter(State& before) {
    read_tile_config(before);
    write_tile_config(kFullTiles);
  }
  static void leave(const State& before) { write_tile_config(before); }

  static Index operand_size(Index rows, Index depth) {
    return tile_of(rows + kTileRows - 1) * Bf16Numbers::tiles(depth) * kTileRows * Bf16Numbers::depth;
  }

  // Where 32 columns of a row lie; the tiles before them have 16 rows of `column` columns together.
  static CONVNEXT_INLINE Index offset(Index depth, Index row, Index column) {
    CONVNEXT_CHECK(row >= 0 && column >= 0 && column % 32 == 0 && column < round_up(depth, depth_unit));
    const Index tile = tile_of(row) * Bf16Numbers::tiles(depth);
    return tile * (kTileRows * Bf16Numbers::depth) + row_in_tile(row) * Bf16Numbers::depth + column * kTileRows;
  }

  static CONVNEXT_INLINE Vec<lanes> gelu(const Vec<lanes>& x) { return gelu_segments(x); }

  template <int N>
  static CONVNEXT_INLINE void put(Bf16* operand, Index depth, Index row, Index column,
                                  const Vec<lanes> (&values)[N]) {
    static_assert(N == 2, "rows are written by whole cache lines");
    Bf16* to = operand + offset(depth, row, column);
#ifdef CONVNEXT_EMULATE
    store<lanes>(to, values[0]);
    store<lanes>(to + lanes, values[1]);
#else
    const __m512bh line = _mm512_cvtne2ps_pbh((__m512)values[1], (__m512)values[0]);
    __builtin_memcpy(to, &line, sizeof line);
#endif
  }

  template <int N>
  static CONVNEXT_INLINE void get(const Bf16* operand, Index depth, Index row, Index column,
                                  Vec<lanes> (&values)[N]) {
    static_assert(N == 2, "rows are read by whole cache lines");
    const Bf16* from = operand + offset(depth, row, column);
    values[0] = load<lanes>(from);
    values[1] = load<lanes>(from + lanes);
  }

  template <class Finish>
  static void multiply(const Product<Bf16>& p, const Finish& finish) {
    multiply_tiled<Bf16Numbers>(p, finish);
  }
};

}  // namespace
}  // namespace convnext
