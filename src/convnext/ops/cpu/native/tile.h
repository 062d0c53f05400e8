// A tile of positions on its way through a block, and how positions are cut into tiles.
#pragma once

#include "clock.h"
#include "map.h"

namespace convnext {
namespace {

// Positions of a group of images, counted in reading order.
struct Range {
  Index first, last;
};

// The share of one member of a team.
CONVNEXT_INLINE Range share(Index count, Index member, Index members) {
  return {count * member / members, count * (member + 1) / members};
}

// Tiles of equal size, of whole image rows if these fit.
struct Tiles {
  Index step;

  Tiles(Range range, Index width, Index most) {
    const Index rows = larger(range.last - range.first, 1);
    const Index tiles = (rows + most - 1) / most;
    step = (rows + tiles - 1) / tiles;
    const Index whole = round_up(step, width);
    if (whole <= most) step = whole;
  }
};

// Hidden columns, a multiple of `unit` at a time, as equal as can be; the last may be shorter.
struct Slices {
  Index hidden, unit, units, count;

  Slices(Index hidden, Index unit, Index most)
      : hidden(hidden),
        unit(unit),
        units((hidden + unit - 1) / unit),
        count((hidden + most - 1) / most) {}

  Range operator[](Index i) const {
    return {units * i / count * unit, smaller(units * (i + 1) / count * unit, hidden)};
  }
};

// Hands out memory piece by piece, each on a cache line; without memory it only measures.
class Carver {
 public:
  explicit Carver(void* memory) : memory_((char*)memory) {}

  template <class T>
  T* take(Index elements) {
    char* piece = memory_ ? memory_ + used_ : nullptr;
    used_ += round_up(elements * (Index)sizeof(T), kLine);
    return (T*)piece;
  }

  Index used() const { return used_; }

  void reserve(Index bytes) { used_ = larger(used_, bytes); }

 private:
  char* memory_;
  Index used_ = 0;
};

// The largest sizes that a tile takes in a network.
struct TileSizes {
  Index mixed_columns = 0;    // fp32 columns of `mixed`
  Index depth = 0;            // of the operand `a`
  Index partial_columns = 0;  // of sums, whole panels
};

// Buffers of one thread. None holds anything from one tile to the next.
template <class Kernels>
struct Tile {
  using Element = typename Kernels::Element;
  float* mixed;     // (tile_rows, mixed_stride) after the depthwise convolution, or the stem's product
  Element* a;       // operand (tile_rows, depth)
  Element* hidden;  // operand (tile_rows, hidden_slice)
  float* partial;   // (tile_rows, columns) sums that wait for the next hidden slice
  float* passing;   // (tile_rows, panel) sums within one product
  float* scales;    // (tile_rows) of the rows of an operand of integers
  Index* offsets;   // of the positions in the map

  Tile(Carver& memory, const TileSizes& sizes) {
    const Index rows = round_up(Kernels::tile_rows, Kernels::row_unit);
    mixed = memory.take<float>(rows * mixed_stride(sizes.mixed_columns));
    a = memory.take<Element>(Kernels::operand_size(rows, sizes.depth));
    hidden = memory.take<Element>(Kernels::operand_size(rows, Kernels::hidden_slice));
    partial = memory.take<float>(rows * sizes.partial_columns);
    passing = memory.take<float>(rows * Kernels::panel);
    scales = memory.take<float>(rows);
    offsets = memory.take<Index>(rows);
  }

  // An odd number of cache lines, as in maps.
  static Index mixed_stride(Index columns) { return Map<float>::pixel_of(columns); }

  template <class Stream>
  void locate(const Map<Stream>& map, Index first, Index rows) const {
    Cursor place(first, map.width);
    for (Index r = 0; r < rows; r++, place.advance(1, map.width))
      offsets[r] = map.at(place.row, place.column) - map.data;
  }
};

}  // namespace
}  // namespace convnext
