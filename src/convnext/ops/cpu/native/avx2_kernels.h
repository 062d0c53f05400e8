// The kernel set AVX2_FP32 (block.h says what each member means): 16 registers of 8 lanes.
#pragma once

#include "depthwise.h"
#include "dot.h"
#include "gelu.h"
#include "gemm.h"

namespace convnext {
namespace {

struct Avx2Tiling {
  static constexpr int lanes = 8;
  static constexpr int register_rows = 6;    // 12 registers of sums, 2 of weights, 1 of a row
  static constexpr int step_words = 4;
  static constexpr Index chunk_words = 192;  // 12 KB of a panel, and 4.5 KB of 6 rows
};

struct Avx2Kernels : VectorKernels<Avx2Tiling, DotFp32> {
  using Stream = float;
  using Mixing = SumsInFp32<8>;
  static constexpr int run = 7;  // 7 registers of sums, 7 of weights, 1 of a position
  static constexpr Index tile_rows = 128;
  static constexpr Index hidden_slice = 384;
  static constexpr Index group_positions = 800;
  static constexpr Index grn_positions = 400;

  static CONVNEXT_INLINE Vec<8> gelu(const Vec<8>& x) { return convnext::gelu<8>(x); }
};

}  // namespace
}  // namespace convnext
