// The parts of the AMX kernels behind a C interface, for test_amx_parts.py. Run where compiled with
// CONVNEXT_EMULATE; without it only to see that the instructions assemble.
#include <new>

#include "amx_kernels.h"

using namespace convnext;

namespace {
using Kernels = AmxKernels<Bf16, SumsInFp32<16>>;
}

extern "C" {

// c (rows, 32 panels), dense, from packed a and b; k in requests of at most `part` tiles.
int convnext_test_product(const Bf16* a, const Bf16* b, const float* bias, Index rows,
                          Index panels, Index k_tiles, Index part, float* partial, float* c) {
  TileConfig before, state, after;
  read_tile_config(before);
  Kernels::enter(state);
  Bf16* operand = new (std::align_val_t(64)) Bf16[Kernels::operand_size(rows, 32 * part)];
  Index calls = 0;
  auto finish = [&](Index row, Index panel, Vec<16>(&columns)[2]) {
    memcpy(c + (row * panels + panel) * 32, columns, sizeof columns);
    calls++;
  };
  for (Index k = 0; k < k_tiles; k += part) {
    const Index depth = 32 * smaller(part, k_tiles - k);
    for (Index row = 0; row < rows; row++)
      for (Index column = 0; column < depth; column += 32) {
        const Bf16* from = a + row * 32 * k_tiles + 32 * k + column;
        Vec<16> values[2] = {load<16>(from), load<16>(from + 16)}, again[2];
        Kernels::put<2>(operand, depth, row, column, values);
        Kernels::get<2>(operand, depth, row, column, again);
        if (memcmp(values, again, sizeof values)) return 3;
      }
    Product<Bf16> p = {};
    p.a = operand;
    p.rows = rows;
    p.depth = depth;
    p.weights = b + 32 * 32 * k;
    p.panel_stride = 32 * 32 * k_tiles;
    p.panels = panels;
    p.bias = bias;
    p.partial = partial;
    p.begin = k == 0;
    p.end = k + part >= k_tiles;
    Kernels::multiply(p, finish);
  }
  ::operator delete[](operand, std::align_val_t(64));
  Kernels::leave(state);
  read_tile_config(after);
  if (calls != rows * panels) return 1;
  return memcmp(&before, &after, sizeof before) ? 2 : 0;
}

// C += A B of one tile each.
void convnext_test_dot(const void* a, const void* b, void* c) {
  TileConfig state;
  Kernels::enter(state);
  TileRegisters tiles;
  tiles.load<0>(*static_cast<const FloatTile*>(c));
  tiles.load_streaming<3>(*static_cast<const OperandTile*>(a));
  tiles.load<7>(*static_cast<const OperandTile*>(b));
  tiles.dot<0, 3, 7>();
  tiles.store<0>(*static_cast<FloatTile*>(c));
  Kernels::leave(state);
}

void convnext_test_gelu(const float* x, float* y, Index count) {
  for (Index i = 0; i < count; i += 16) store<16>(y + i, gelu_segments(load<16>(x + i)));
}
}
