// Threads that share the positions of the same images.
#pragma once

#include "vec.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace convnext {
namespace {

// The thread sanitizer does not see into the OpenMP library, so it is told what a barrier, or the
// start or end of a parallel region, puts in order: all before `publish` comes before `receive`.
#if defined(__SANITIZE_THREAD__)
char order_of_threads;
inline void publish() { __tsan_release(&order_of_threads); }
inline void receive() { __tsan_acquire(&order_of_threads); }
#else
inline void publish() {}
inline void receive() {}
#endif

struct Member {
  Index index, count;

  // All members wait for each other. They are either one thread, or all of the parallel region.
  void wait() const {
    if (count == 1) return;
    publish();
#pragma omp barrier
    receive();
  }
};

}  // namespace
}  // namespace convnext
