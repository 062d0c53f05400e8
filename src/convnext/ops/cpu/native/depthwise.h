// Depthwise 7x7 convolution of some positions of a map.
#pragma once

#include "map.h"

namespace convnext {
namespace {

constexpr int kTaps = 7;

// What the convolution is computed in is a struct (`Mixing` of block.h) with
//
//   static constexpr int lanes;   channels of a vector; Kernels::channel_unit is a multiple of it
//   using Tap, Vector;            a weight in memory, and a register of sums, positions or weights
//   read(from)                    a vector of a map, or of weights
//   write(to, v)                  a vector of weights
//   add(sum, a, b)                sum += a * b, rounded once
//   read_floats(from), write_floats(to, v)    the same as `read` and `write` of fp32 in memory
//
// In fp32, whatever numbers the maps hold:
template <int Lanes>
struct SumsInFp32 {
  static constexpr int lanes = Lanes;
  using Tap = float;
  using Vector = Vec<Lanes>;

  template <class Number>
  static CONVNEXT_INLINE Vector read(const Number* from) {
    return load<Lanes>(from);
  }

  static CONVNEXT_INLINE Vector read_floats(const float* from) { return load<Lanes>(from); }
  static CONVNEXT_INLINE void write_floats(float* to, const Vector& v) { store<Lanes>(to, v); }

  static CONVNEXT_INLINE void write(Tap* to, const Vector& v) { store<Lanes>(to, v); }
  static CONVNEXT_INLINE void add(Vector& sum, const Vector& a, const Vector& b) { sum += a * b; }
};

// `Run` neighbouring positions of one row, one vector of channels. The 7 weights of a kernel row and
// the sums stay in registers, so that an input vector is read once for the 7 sums it belongs to:
// 7 + Run + 6 reads for 7 * Run multiplications.
template <class Kernels, int Run>
void depthwise_run(const typename Kernels::Stream* x, Index pitch, Index pixel, Index first_tap,
                   Index last_tap, const typename Kernels::Mixing::Tap* weight, const float* bias,
                   float* out, Index out_stride) {
  using Mixing = typename Kernels::Mixing;
  using Vector = typename Mixing::Vector;
  const Vector start = Mixing::read_floats(bias);
  Vector sums[Run];
#pragma GCC unroll 16
  for (int i = 0; i < Run; i++) sums[i] = start;
  for (Index ky = first_tap; ky < last_tap; ky++) {
    const typename Kernels::Stream* from = x + (ky - kReach) * pitch - kReach * pixel;
    Vector taps[kTaps];
#pragma GCC unroll 16
    for (int kx = 0; kx < kTaps; kx++) taps[kx] = Mixing::read(weight + (ky * kTaps + kx) * Mixing::lanes);
#pragma GCC unroll 32
    for (int j = 0; j < Run + kTaps - 1; j++) {
      const Vector value = Mixing::read(from);
      from += pixel;
#pragma GCC unroll 16
      for (int i = 0; i < Run; i++)
        if (j - i >= 0 && j - i < kTaps) Mixing::add(sums[i], value, taps[j - i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Run; i++) Mixing::write_floats(out + i * out_stride, sums[i]);
}

// As above for a length known at run time, 1 to Run.
template <class Kernels, int Run, class... Arguments>
CONVNEXT_INLINE void depthwise_any_run(Index length, Arguments... arguments) {
  if constexpr (Run > 1) {
    if (length < Run) return depthwise_any_run<Kernels, Run - 1>(length, arguments...);
  }
  depthwise_run<Kernels, Run>(arguments...);
}

// Positions [first, first + rows) into out (rows, stride). Channels are the outer loop: of one vector
// of channels the weights and the 7 rows of a window stay in the first-level cache.
template <class Kernels>
void depthwise(const Map<typename Kernels::Stream>& x, Index first, Index rows, const float* weight,
               const float* bias, float* out, Index stride) {
  using Mixing = typename Kernels::Mixing;
  constexpr int L = Mixing::lanes;
  static_assert(Kernels::channel_unit % L == 0, "maps and weights have whole vectors");
  alignas(64) typename Mixing::Tap taps[kTaps * kTaps * L];
  for (Index c = 0; c < x.channels; c += L) {
    for (Index i = 0; i < kTaps * kTaps; i++)
      Mixing::write(taps + i * L, Mixing::read_floats(weight + i * x.channels + c));
    Cursor place(first, x.width);
    for (Index done = 0; done < rows;) {
      const Index length =
          smaller(Kernels::run, smaller(rows - done, x.width - place.column));
      const Index y = place.row % x.height;
      const Index first_tap = larger(0, kReach - y);
      const Index last_tap = smaller(kTaps, x.height + kReach - y);
      depthwise_any_run<Kernels, Kernels::run>(length, x.at(place.row, place.column) + c, x.pitch(),
                                               x.pixel, first_tap, last_tap, taps, bias + c,
                                               out + done * stride + c, stride);
      place.advance(length, x.width);
      done += length;
    }
  }
}

}  // namespace
}  // namespace convnext
