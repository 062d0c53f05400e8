// The kernel set AVX512_FP32 (block.h says what each member means): 32 registers of 16 lanes.
#pragma once

#include "depthwise.h"
#include "dot.h"
#include "gelu.h"
#include "gemm.h"

namespace convnext {
namespace {

struct Avx512Tiling {
  static constexpr int lanes = 16;
  static constexpr int register_rows = 12;   // 24 registers of sums, 2 of weights
  static constexpr int step_words = 2;
  static constexpr Index chunk_words = 160;  // 20 KB of a panel, and 8 KB of 12 rows
};

template <class Dot>
struct Avx512Kernels : VectorKernels<Avx512Tiling, Dot> {
  using Stream = float;
  using Mixing = SumsInFp32<16>;
  static constexpr int run = 14;  // 14 registers of sums, 7 of weights, 1 of a position
  static constexpr Index tile_rows = 192;
  static constexpr Index hidden_slice = 512;
  static constexpr Index group_positions = 800;
  static constexpr Index grn_positions = 400;

  static CONVNEXT_INLINE Vec<16> gelu(const Vec<16>& x) { return convnext::gelu<16>(x); }
};

}  // namespace
}  // namespace convnext
