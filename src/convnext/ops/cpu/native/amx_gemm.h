// Products on tile registers, with the work on finished rows hidden behind the multiplications.
//
//     operand   [row tile][k tile][16 rows][32 of k]
//     weights   [panel][k tile][2 halves][16 pairs of k][16 columns][2]
//     partial   [panel][row tile][2 halves][16 rows][16 columns]           fp32
//
// With 8-bit integers a tile has 64 of k, fours in place of pairs, and sums are of 32-bit integers,
// which pass through the same memory.
//
// Four sums stay in registers: 2 row tiles x 2 halves of a panel. So four loads feed four
// multiplications, and the loads (8 cycles each) keep ahead of them (16 cycles each).
//
// Panels are the outer loop and rows the inner one: a panel, 2 KB for each k tile, is read from the
// first-level cache for all rows, the operand passes by from the second. A plain load of the
// operand would push the panel out; the streaming load does not, which is worth 30 % from k = 384
// on. For shallow k everything fits. A panel too deep for the cache is taken in chunks.
//
// A finished block goes to 4 KB of scratch, and its rows are processed (GELU, or adding to the
// stream) between the multiplications of the following block, while the tile unit is busy. Two
// scratch blocks take turns. The vector units can issue about one row for each multiplication.
#pragma once

#include "amx_tiles.h"
#include "product.h"

namespace convnext {
namespace {

constexpr Index kTileRows = 16;
constexpr Index kChunkTiles = 16;  // of k: 32 of the 48 KB of the first-level cache
constexpr Index kWideTiles = 12;   // 384 channels: then a block's weights leave the second level

// By shifts: Index has a sign, and a division would mind it.
CONVNEXT_INLINE Index tile_of(Index row) { return row >> 4; }
CONVNEXT_INLINE Index row_in_tile(Index row) { return row & 15; }

// What the tiles of a product hold.
struct Bf16Numbers {
  using Element = Bf16;
  static constexpr Index depth = 32;  // of a tile
  static CONVNEXT_INLINE Index tiles(Index k) { return (k + depth - 1) >> 5; }

  template <int C, int A, int B>
  static CONVNEXT_INLINE void dot(TileRegisters& registers) {
    registers.dot<C, A, B>();
  }
};

// Operands without sign, weights with it.
struct Int8Numbers {
  using Element = uint8_t;
  static constexpr Index depth = 64;
  static CONVNEXT_INLINE Index tiles(Index k) { return (k + depth - 1) >> 6; }

  template <int C, int A, int B>
  static CONVNEXT_INLINE void dot(TileRegisters& registers) {
    registers.dot_integers<C, A, B>();
  }
};

// The rows of the block multiplied last, handed on a few at a time:
//     finish(row, panel, Vec<16> (&columns)[2])
template <class Finish>
class FinishedRows {
 public:
  // `scratch` is not a member, so that the counters below can live in registers.
  FinishedRows(const Finish& finish, FloatTile (*scratch)[4])
      : finish_(finish), scratch_(scratch) {}

  // A group of rows, a power of two; a group that is not whole waits for `drain`.
  template <int Group>
  CONVNEXT_INLINE void advance() {
    if (next_ + Group > end_) return;
    // Both are multiples of the group. With `|` in place of `+` the compiler sees that its rows lie in
    // one tile, and computes their place once.
    const Index row = (first_row_ | next_) & -Group;
    const Finish finish = finish_;  // what it holds cannot change while rows are written
#pragma GCC unroll 4
    for (int i = 0; i < Group; i++)
      finish_row(finish, (const float*)block_ + kTileRows * (next_ + i), row | i, panel_);
    next_ += Group;
  }

  CONVNEXT_INLINE void drain() {
    if (next_ < end_) finish_rest(finish_, block_, first_row_, panel_, next_, end_);
    next_ = end_;
  }

  // Where the block being multiplied now is stored; then `publish` makes it the finished one.
  CONVNEXT_INLINE FloatTile* scratch() { return scratch_[turn_]; }

  CONVNEXT_INLINE void publish(Index first_row, Index panel, Index rows) {
    drain();
    block_ = scratch_[turn_];
    turn_ ^= 1;
    first_row_ = first_row;
    panel_ = panel;
    next_ = 0;
    end_ = rows;
  }

 private:
  // These two take no `this`, for the same reason as `scratch`.
#ifdef CONVNEXT_EMULATE
  __attribute__((noinline))  // for the compiler's sake: vectors this long are emulated too
#else
  CONVNEXT_INLINE
#endif
  static void finish_row(const Finish& finish, const float* sums, Index row, Index panel) {
    Vec<16> columns[2] = {load<16>(sums), load<16>(sums + 2 * kTileRows * kTileRows)};
    finish(row, panel, columns);
  }

  // Once a block at most, so it may be a call.
  __attribute__((noinline)) static void finish_rest(const Finish& finish, const FloatTile* block,
                                                    Index first_row, Index panel, Index next,
                                                    Index end) {
    for (; next < end; next++)
      finish_row(finish, (const float*)block + kTileRows * next, first_row + next, panel);
  }

  const Finish& finish_;
  FloatTile (*scratch_)[4];
  const FloatTile* block_ = nullptr;
  int turn_ = 0;
  Index first_row_ = 0, panel_ = 0, next_ = 0, end_ = 0;
};

// A product in tiles.
template <class Numbers>
struct TileProduct {
  using Element = typename Numbers::Element;

  explicit TileProduct(const Product<Element>& p)
      : a((const OperandTile*)p.a),
        b((const OperandTile*)p.weights),
        bias(p.bias),
        partial((FloatTile*)p.partial),
        rows(p.rows),
        row_tiles(tile_of(p.rows + kTileRows - 1)),
        depth(Numbers::tiles(p.depth)),
        panels(p.panels),
        panel_stride(p.panel_stride / (Index)(sizeof(OperandTile) / sizeof(Element))),
        begin(p.begin),
        end(p.end) {}

  const OperandTile *a, *b;
  const float* bias;
  FloatTile* partial;
  Index rows, row_tiles, depth, panels, panel_stride;
  bool begin, end;
};

// A part of the k tiles.
struct Chunk {
  Index first, count;
  bool begin, end;
};

// The following panel into the second-level cache, a few lines at each step: in bursts they would
// hold up the loads that are needed now. Weights of few channels are there already, and asking for
// them again costs more than it gains.
class Prefetch {
 public:
  template <class Numbers>
  Prefetch(const TileProduct<Numbers>& p, Index panel) {
    if (smaller(p.depth, p.panels) < kWideTiles) return;
    const Index blocks = (p.row_tiles + 1) / 2;
    line_ = (const char*)(p.b + (panel + 1) * p.panel_stride);
    lines_each_ = (2 * (Index)sizeof(OperandTile) / 64 + blocks - 1) / blocks;
  }

  CONVNEXT_INLINE void step() {
    for (Index i = 0; i < lines_each_; i++, line_ += 64) __builtin_prefetch(line_, 0, 2);
  }

 private:
  const char* line_ = nullptr;
  Index lines_each_ = 0;
};

template <int RowTiles>
CONVNEXT_INLINE void load_sums(TileRegisters& tiles, const FloatTile* sums) {
  tiles.load<0>(sums[0]);
  tiles.load<1>(sums[1]);
  if (RowTiles == 1) return;
  tiles.load<2>(sums[2]);
  tiles.load<3>(sums[3]);
}

template <int RowTiles>
CONVNEXT_INLINE void load_bias(TileRegisters& tiles, const float* bias) {
  tiles.load_row<0>(bias);
  tiles.load_row<1>(bias + 16);
  if (RowTiles == 1) return;
  tiles.load_row<2>(bias);
  tiles.load_row<3>(bias + 16);
}

template <int RowTiles>
CONVNEXT_INLINE void store_sums(const TileRegisters& tiles, FloatTile* sums) {
  tiles.store<0>(sums[0]);
  tiles.store<1>(sums[1]);
  if (RowTiles == 1) return;
  tiles.store<2>(sums[2]);
  tiles.store<3>(sums[3]);
}

// As [2 halves][32 rows][16 columns]: what is finished row by row finds each half in one piece.
template <int RowTiles>
CONVNEXT_INLINE void store_block(const TileRegisters& tiles, FloatTile* block) {
  tiles.store<0>(block[0]);
  tiles.store<1>(block[2]);
  if (RowTiles == 1) return;
  tiles.store<2>(block[1]);
  tiles.store<3>(block[3]);
}

// One block, 16 RowTiles x 32: adds the products over a chunk. Registers 0 to 3 hold the sums, 4
// and 5 the operand, 6 and 7 the weights. After every `Dots` multiplications, 1 or 2, a group of
// finished rows is processed.
template <class Numbers, int RowTiles, int Group, int Dots, class Rows>
CONVNEXT_INLINE void multiply_tiles(TileRegisters& tiles, Index count, const OperandTile* a,
                                    const OperandTile* below, const OperandTile* b, Rows& finished,
                                    Prefetch& prefetch) {
  constexpr bool deep = Group < 4;
  for (Index k = 0; k < count; k++) {
    deep ? tiles.load_streaming<4>(a[k]) : tiles.load<4>(a[k]);
    tiles.load<6>(b[2 * k]);
    Numbers::template dot<0, 4, 6>(tiles);
    if (Dots == 1) finished.template advance<Group>();
    tiles.load<7>(b[2 * k + 1]);
    Numbers::template dot<1, 4, 7>(tiles);
    finished.template advance<Group>();
    prefetch.step();
    if (RowTiles == 1) continue;
    deep ? tiles.load_streaming<5>(below[k]) : tiles.load<5>(below[k]);
    Numbers::template dot<2, 5, 6>(tiles);
    if (Dots == 1) finished.template advance<Group>();
    Numbers::template dot<3, 5, 7>(tiles);
    finished.template advance<Group>();
  }
}

template <int RowTiles, int Group, int Dots, class Numbers, class Rows>
CONVNEXT_INLINE void multiply_block(TileRegisters& tiles, const TileProduct<Numbers>& p, Index panel,
                                    Index row, const Chunk& chunk, Rows& finished,
                                    Prefetch& prefetch) {
  const OperandTile* a = p.a + tile_of(row) * p.depth + chunk.first;
  const OperandTile* b = p.b + panel * p.panel_stride + 2 * chunk.first;
  // Sums that only wait for the next chunk of the same panel are overwritten by the next panel.
  const Index waiting = p.begin && p.end ? 0 : panel;
  FloatTile* partial = p.partial + 2 * (waiting * p.row_tiles + tile_of(row));
  if (chunk.begin)
    load_bias<RowTiles>(tiles, p.bias + 32 * panel);
  else
    load_sums<RowTiles>(tiles, partial);
  multiply_tiles<Numbers, RowTiles, Group, Dots>(tiles, chunk.count, a, a + p.depth, b, finished,
                                                 prefetch);
  if (!chunk.end) return store_sums<RowTiles>(tiles, partial);
  store_block<RowTiles>(tiles, finished.scratch());
  finished.publish(row, panel, smaller(p.rows - row, RowTiles * kTileRows));
}

template <int Group, int Dots, class Numbers, class Finish>
void multiply_all(const TileProduct<Numbers>& p, const Finish& finish) {
  TileRegisters tiles;
  FloatTile scratch[2][4];
  FinishedRows<Finish> finished(finish, scratch);
  const Index chunks = (p.depth + kChunkTiles - 1) / kChunkTiles;
  for (Index panel = 0; panel < p.panels; panel++) {
    Prefetch prefetch(p, panel);
    for (Index i = 0; i < chunks; i++) {
      const Index first = p.depth * i / chunks, next = p.depth * (i + 1) / chunks;
      const Chunk chunk{first, next - first, p.begin && i == 0, p.end && i + 1 == chunks};
      Index row = 0;
      for (; p.rows - row > kTileRows; row += 2 * kTileRows)
        multiply_block<2, Group, Dots>(tiles, p, panel, row, chunk, finished, prefetch);
      if (row < p.rows)
        multiply_block<1, Group, Dots>(tiles, p, panel, row, chunk, finished, prefetch);
    }
  }
  finished.drain();
}

// A block has as many multiplications as rows for 8 k tiles; shallower, each must hide more rows.
template <class Numbers, class Finish>
void multiply_tiled(const Product<typename Numbers::Element>& product, const Finish& finish) {
  const TileProduct<Numbers> p(product);
  if (p.depth >= 8) return multiply_all<2, 2>(p, finish);
  if (p.depth >= 4) return multiply_all<2, 1>(p, finish);
  multiply_all<4, 1>(p, finish);
}

}  // namespace
}  // namespace convnext
