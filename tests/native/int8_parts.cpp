// Products of 8-bit integers behind a C interface, for test_int8_parts.py. Run where compiled with
// CONVNEXT_EMULATE; without it only to see that the instructions assemble.
#include <new>

#include "amx_int8_kernels.h"
#include "dot_int16.h"
#include "dot_int8.h"
#include "gemm.h"

using namespace convnext;

namespace {

using Kernels = AmxInt8Kernels<Bf16, SumsInFp32<16>>;

template <int Lanes>
struct Tiling {
  static constexpr int lanes = Lanes, register_rows = Lanes == 8 ? 6 : 12;
  static constexpr int step_words = Lanes == 8 ? 4 : 2;
  static constexpr Index chunk_words = 7;  // so that small products come in chunks
};

// c (rows, panels of 2 * lanes columns), dense, from a without sign, row by row, and packed b; k in
// requests of `part`.
template <class Integers>
int product(const uint8_t* a, const void* b, const int32_t* start, Index rows, Index panels, Index k,
            Index part, float* partial, int32_t* c) {
  constexpr int L = Integers::lanes, width = 2 * L;
  using Element = typename Integers::Element;
  const Index padded = round_up(k, Integers::depth_unit);
  auto* operand = new (std::align_val_t(64)) Element[Integers::operand_size(rows, part)];
  Index calls = 0;
  for (Index first = 0; first < k; first += part) {
    const Index depth = smaller(part, k - first);
    for (Index row = 0; row < rows; row++)
      for (Index column = 0; column < depth; column += width) {
        typename VecTypes<L>::Ints words[2];
        for (int i = 0; i < width; i++)
          words[i / L][i % L] = 0x4b400000 + a[row * k + first + column + i];
        const Vec<L> as_floats[2] = {(Vec<L>)words[0], (Vec<L>)words[1]};
        Integers::template put<2>(operand, depth, row, column, as_floats);
      }
    const Product<Element> p{operand, rows, depth, (const Element*)b + width * first,
                             padded * width, panels, (const float*)start, partial, first == 0,
                             first + part >= k};
    Integers::multiply(p, [&](Index row, Index panel, Vec<L>(&sums)[2]) {
      memcpy(c + (row * panels + panel) * width, sums, sizeof sums);
      calls++;
    });
  }
  ::operator delete[](operand, std::align_val_t(64));
  return calls == rows * panels ? 0 : 1;
}

using Madd = VectorKernels<Tiling<8>, DotInt16>;
using AvxVnni = VectorKernels<Tiling<8>, DotInt8>;
using Vnni = VectorKernels<Tiling<16>, DotInt8>;

}  // namespace

extern "C" {

int convnext_test_madd(const uint8_t* a, const void* b, const int32_t* start, Index rows, Index panels,
                       Index k, Index part, float* partial, int32_t* c) {
  return product<Madd>(a, b, start, rows, panels, k, part, partial, c);
}

int convnext_test_avx_vnni(const uint8_t* a, const void* b, const int32_t* start, Index rows, Index panels,
                           Index k, Index part, float* partial, int32_t* c) {
  return product<AvxVnni>(a, b, start, rows, panels, k, part, partial, c);
}

int convnext_test_vnni(const uint8_t* a, const void* b, const int32_t* start, Index rows, Index panels,
                       Index k, Index part, float* partial, int32_t* c) {
  return product<Vnni>(a, b, start, rows, panels, k, part, partial, c);
}

int convnext_test_amx(const uint8_t* a, const void* b, const int32_t* start, Index rows, Index panels,
                      Index k, Index part, float* partial, int32_t* c) {
  TileConfig state;
  Kernels::enter(state);
  const int status = product<AmxIntegers>(a, b, start, rows, panels, k, part, partial, c);
  Kernels::leave(state);
  return status;
}
}
