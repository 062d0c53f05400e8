// The tile registers of AMX: eight of 16 rows x 64 bytes, and the few things done with them.
//
// Every operand lies in memory as one block of 1 KB, row after row without gaps. So the rows
// of a tile never fall into the same set of the first-level cache, and a packed matrix is just an
// array of tiles:
//
//     A, bf16   16 rows x 32 of k
//     B, bf16   16 pairs of k x 16 columns x 2      (the two of a pair lie beside each other)
//     C, fp32   16 rows x 16 columns                C[m][n] += sum over k A[m][k] B[k][n]
//
// or, of integers, A 16 rows x 64 of 8 bits without sign, B 16 fours of k x 16 columns x 4 of 8 bits
// with sign, C of 32 bits.
//
// Assembly in place of compiler intrinsics: those want literal register numbers, and do not tell
// the compiler which memory they read, so that it may drop the stores before them.
//
// CONVNEXT_EMULATE puts plain C++ of identical arithmetic behind the same names: tests only.
#pragma once

#include <string.h>

#include "vec.h"

namespace convnext {
namespace {

struct alignas(64) OperandTile {
  unsigned char row[16][64];
};

struct alignas(64) FloatTile {
  float row[16][16];
};

// The operand of LDTILECFG. All zeros, palette 0, releases the tiles.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
constexpr TileConfig kFullTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
// oneDNN, in the same threads, loads its own once and expects to find it again: whoever writes ours
// must restore what was there. The contents of tiles are nobody's across calls.
static_assert(sizeof(TileConfig) == 64, "the processor reads 64 bytes");

#ifndef CONVNEXT_EMULATE

struct TileRegisters {
  template <int Register, class Tile>
  void load(const Tile& tile) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Register), "r"(&tile), "r"(Index{64}),
                 "m"(tile));
  }

  // For data used once before it leaves the first-level cache: does not evict what stays there.
  template <int Register, class Tile>
  void load_streaming(const Tile& tile) {
    asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"i"(Register), "r"(&tile), "r"(Index{64}),
                 "m"(tile));
  }

  // All 16 rows are the same 16 numbers.
  template <int Register>
  void load_row(const float* row) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Register), "r"(row), "r"(Index{0}),
                 "m"(*reinterpret_cast<const float(*)[16]>(row)));
  }

  template <int Register>
  void store(FloatTile& tile) const {
    asm volatile("tilestored %%tmm%c1, (%2,%3,1)"
                 : "=m"(tile)
                 : "i"(Register), "r"(&tile), "r"(Index{64}));
  }

  template <int C, int A, int B>
  void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }

  template <int C, int A, int B>
  void dot_integers() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

inline void read_tile_config(TileConfig& config) {
  asm volatile("sttilecfg %0" : "=m"(config));
}

inline void write_tile_config(const TileConfig& config) {
  asm volatile("ldtilecfg %0" ::"m"(config));
}

#else

// What the processor keeps for each thread; starts released.
inline TileConfig& emulated_tile_config() {
  static thread_local TileConfig config = {};
  return config;
}

inline void read_tile_config(TileConfig& config) { config = emulated_tile_config(); }
inline void write_tile_config(const TileConfig& config) { emulated_tile_config() = config; }

class TileRegisters {
 public:
  template <int Register, class Tile>
  void load(const Tile& tile) {
    memcpy(tiles_[Register], &tile, 1024);
  }

  template <int Register, class Tile>
  void load_streaming(const Tile& tile) {
    load<Register>(tile);
  }

  template <int Register>
  void load_row(const float* row) {
    for (int i = 0; i < 16; i++) memcpy(tiles_[Register] + 64 * i, row, 64);
  }

  template <int Register>
  void store(FloatTile& tile) const {
    memcpy(&tile, tiles_[Register], 1024);
  }

  template <int C, int A, int B>
  void dot() {
    if (emulated_tile_config().palette != 1) __builtin_trap();  // the processor: invalid opcode
    add_product(tiles_[C], tiles_[A], tiles_[B]);
  }

  template <int C, int A, int B>
  void dot_integers() {
    if (emulated_tile_config().palette != 1) __builtin_trap();
    add_integer_product(tiles_[C], tiles_[A], tiles_[B]);
  }

 private:
  typedef uint32_t Words __attribute__((vector_size(64), may_alias));
  typedef int32_t Integers __attribute__((vector_size(64), may_alias));
  typedef float Floats __attribute__((vector_size(64), may_alias));

  static Floats flush(Floats x) {
    const Words bits = (Words)x;
    const Words normal = (Words)((bits & 0x7f800000u) != 0u);  // all ones or all zeros
    return (Floats)(bits & (normal | 0x80000000u));
  }

  static Floats low(Words pair) { return flush((Floats)(pair << 16)); }
  static Floats high(Words pair) { return flush((Floats)(pair & 0xffff0000u)); }

  // TDPBF16PS: from zero, the products of even and of odd k are summed apart, one fused
  // multiply-add each; then both sums are added, and the result to C. Every operation takes
  // denormal numbers as zeros and gives zeros for them. Not inlined: it is used in many places.
  __attribute__((noinline)) static void add_product(void* sums, const void* left,
                                                    const void* right) {
    Floats* c = (Floats*)sums;
    const uint32_t* a = (const uint32_t*)left;
    const Words* b = (const Words*)right;
    for (int m = 0; m < 16; m++) {
      Floats even = {}, odd = {};
      for (int k = 0; k < 16; k++) {
        const Words pair = Words{} + a[16 * m + k];
        even = flush(low(pair) * low(b[k]) + even);  // contracted to a fused multiply-add
        odd = flush(high(pair) * high(b[k]) + odd);
      }
      c[m] = flush(flush(c[m]) + flush(even + odd));
    }
  }

  // TDPBUSD: exact, modulo 2^32.
  __attribute__((noinline)) static void add_integer_product(void* sums, const void* left,
                                                            const void* right) {
    Words* c = (Words*)sums;
    const unsigned char* a = (const unsigned char*)left;
    const Words* b = (const Words*)right;
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 64; k++) {
        const Integers signed_bytes = (Integers)(b[k / 4] << (24 - 8 * (k % 4))) >> 24;
        c[m] += (Words)(signed_bytes * (int32_t)a[64 * m + k]);
      }
  }

  alignas(64) unsigned char tiles_[8][1024];
};

#endif

}  // namespace
}  // namespace convnext
