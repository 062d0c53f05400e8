// Products of 8-bit integers behind a C interface, for test_int8_parts.py. Run where compiled with
// CONVNEXT_EMULATE; without it only to see that the instructions assemble.
#include <new>

#include "amx_int8_kernels.h"
#include "dot_int8.h"
#include "gemm.h"

using namespace convnext;

namespace {

struct Tiling {
  static constexpr int lanes = 16, register_rows = 12;
  static constexpr Index chunk_words = 7;  // so that small products come in chunks
};

// c (rows, 32 panels), dense, from a without sign, row by row, and packed b; k in requests of `part`.
template <class Integers>
int product(const uint8_t* a, const uint8_t* b, const int32_t* start, Index rows, Index panels,
            Index k, Index part, float* partial, int32_t* c) {
  const Index padded = round_up(k, Integers::depth_unit);
  auto* operand = new (std::align_val_t(64)) uint8_t[Integers::operand_size(rows, part)];
  Index calls = 0;
  for (Index first = 0; first < k; first += part) {
    const Index depth = smaller(part, k - first);
    for (Index row = 0; row < rows; row++)
      for (Index column = 0; column < depth; column += 32) {
        VecTypes<16>::Ints words[2];
        for (int i = 0; i < 32; i++)
          words[i / 16][i % 16] = 0x4b400000 + a[row * k + first + column + i];
        const Vec<16> as_floats[2] = {(Vec<16>)words[0], (Vec<16>)words[1]};
        Integers::template put<2>(operand, depth, row, column, as_floats);
      }
    const Product<uint8_t> p{operand, rows, depth, b + 32 * first, padded * 32, panels,
                             (const float*)start, partial, first == 0, first + part >= k};
    Integers::multiply(p, [&](Index row, Index panel, Vec<16>(&sums)[2]) {
      memcpy(c + (row * panels + panel) * 32, sums, sizeof sums);
      calls++;
    });
  }
  ::operator delete[](operand, std::align_val_t(64));
  return calls == rows * panels ? 0 : 1;
}

}  // namespace

extern "C" {

int convnext_test_vnni(const uint8_t* a, const uint8_t* b, const int32_t* start, Index rows,
                       Index panels, Index k, Index part, float* partial, int32_t* c) {
  return product<VectorKernels<Tiling, DotInt8>>(a, b, start, rows, panels, k, part, partial, c);
}

int convnext_test_amx(const uint8_t* a, const uint8_t* b, const int32_t* start, Index rows,
                      Index panels, Index k, Index part, float* partial, int32_t* c) {
  TileConfig state;
  AmxInt8Kernels::enter(state);
  const int status = product<AmxIntegers>(a, b, start, rows, panels, k, part, partial, c);
  AmxInt8Kernels::leave(state);
  return status;
}
}
