// Feature maps between blocks: channels last, with the zeros that a 7x7 kernel sees at the sides.
#pragma once

#include "vec.h"

namespace convnext {
namespace {

constexpr Index kReach = 3;  // of a 7x7 kernel to each side
constexpr Index kLine = 64;  // bytes of a cache line

// Images of one size, one below the other. A row has `width` positions and then 3 of zeros, which
// serve as the right margin of this row and the left margin of the next one; 3 more precede the first
// row. Rows above and below an image are not stored, the depthwise kernel leaves them out.
template <class Stream>
struct Map {
  Stream* data;  // position (0, 0)
  Index height, width, channels;  // padded to the channel unit, the padding zero
  Index pixel;  // from one position to the next, in elements

  Index pitch() const { return (width + kReach) * pixel; }

  // `row` counts through the images.
  Stream* at(Index row, Index column) const {
    CONVNEXT_CHECK(row >= -1 && column >= 0 && column <= width);
    return data + row * pitch() + column * pixel;
  }

  // Positions an odd number of cache lines apart fall into all sets of the caches; a power of two
  // would have the 7 rows of a window evict each other.
  static Index pixel_of(Index channels) {
    CONVNEXT_CHECK(channels >= 0);
    const Index per_line = kLine / (Index)sizeof(Stream);
    return (((channels + per_line - 1) / per_line) | 1) * per_line;
  }

  static Index elements(Index images, Index height, Index width, Index channels) {
    return pixel_of(channels) * (kReach + images * height * (width + kReach));
  }

  static Map place(Stream* memory, Index height, Index width, Index channels) {
    const Index pixel = pixel_of(channels);
    return Map{memory + kReach * pixel, height, width, channels, pixel};
  }

  void clear_margins(Index images) const {
    for (Index row = -1; row < images * height; row++)  // the margin of row -1 precedes row 0
      __builtin_memset(at(row, width), 0, kReach * pixel * sizeof(Stream));
  }
};

// A place in a map, advanced along positions in reading order.
struct Cursor {
  Index row, column;  // the row counts through the images

  Cursor(Index position, Index width) : row(position / width), column(position % width) {}

  void advance(Index count, Index width) {
    column += count;
    while (column >= width) {
      column -= width;
      row++;
    }
  }
};

}  // namespace
}  // namespace convnext
