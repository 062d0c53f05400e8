// The kernel sets AMX_INT8 and AMX_INT8_HALF: products of 8-bit integers on tile registers in quantised
// blocks, everything else as in AMX_BF16 and AMX_BF16_HALF.
//
// An operand of integers is an array of tiles of 16 rows x 64 columns.
#pragma once

#include "amx_kernels.h"
#include "bytes.h"

namespace convnext {
namespace {

struct AmxIntegers {
  using Element = uint8_t;
  static constexpr int lanes = 16;
  static constexpr int panel = 32;
  static constexpr Index depth_unit = Int8Numbers::depth;
  static constexpr Index hidden_slice = kChunkTiles * Int8Numbers::depth;

  static Index operand_size(Index rows, Index depth) {
    return tile_of(rows + kTileRows - 1) * Int8Numbers::tiles(depth) * sizeof(OperandTile);
  }

  template <int N>
  static CONVNEXT_INLINE void put(uint8_t* operand, Index depth, Index row, Index column,
                                  const Vec<lanes> (&words)[N]) {
    static_assert(N == 2, "half a cache line, which lies within a tile");
    CONVNEXT_CHECK(row >= 0 && column >= 0 && column % 32 == 0 && column < round_up(depth, depth_unit));
    const Index tile = tile_of(row) * Int8Numbers::tiles(depth) + (column >> 6);
    uint8_t* to = operand + tile * (Index)sizeof(OperandTile) + row_in_tile(row) * 64 + (column & 63);
    store_bytes<lanes>(to, words[0]);
    store_bytes<lanes>(to + lanes, words[1]);
  }

  template <class Finish>
  static void multiply(const Product<uint8_t>& p, const Finish& finish) {
    multiply_tiled<Int8Numbers>(p, finish);
  }
};

template <class Number, class Sums>
struct AmxInt8Kernels : AmxKernels<Number, Sums> {
  using Integers = AmxIntegers;
};

}  // namespace
}  // namespace convnext
