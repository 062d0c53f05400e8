// Where the time of the processor goes, if somebody asks.
#pragma once

#include <time.h>

#include "vec.h"

namespace convnext {
namespace {

enum Part { PART_ENTRY, PART_DEPTHWISE, PART_NORM, PART_EXPAND, PART_GRN, PART_REDUCE, NUM_PARTS };

// Adds up the seconds between laps that one thread was running, waits for others excepted.
class Clock {
 public:
  explicit Clock(double* stages) : stages_(stages) {}

  void start(Index stage) {
    if (!stages_) return;
    now_ = stages_ + stage * NUM_PARTS;
    last_ = seconds();
  }

  // Does not count what has passed since the last lap.
  void resume() {
    if (stages_) last_ = seconds();
  }

  void lap(Part part) {
    if (!stages_) return;
    const double time = seconds();
    now_[part] += time - last_;
    last_ = time;
  }

 private:
  static double seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
  }

  double* stages_;
  double* now_ = nullptr;
  double last_ = 0;
};

}  // namespace
}  // namespace convnext
