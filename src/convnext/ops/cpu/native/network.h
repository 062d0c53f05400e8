// The whole network on groups of images, depth first.
//
// A stage takes as many images at a time as make `group_positions` positions: one in the first stages,
// whose maps are large and weights small, several in the last. A group of a stage is filled by groups
// of the stage before it, so the maps of the early stages are read while they are still in the cache.
//
// A batch of at least as many images as threads goes to teams of one thread, equal shares first. What
// is left, or a smaller batch, all threads do together: they share positions, with a barrier after
// each block.
#pragma once

#include <omp.h>

#include "downsample.h"
#include "grn.h"
#include "plan.h"
#include "stem.h"

namespace convnext {
namespace {

// One member's view of a team at work on images [0, images) from `image` on.
template <class Kernels>
class Walk {
 public:
  using Stream = typename Kernels::Stream;

  Walk(const Plan<Kernels>& plan, const TeamMemory<Kernels>& memory, const Tile<Kernels>& tile,
       Member member, Clock& clock)
      : plan_(plan), memory_(memory), tile_(tile), member_(member), clock_(clock) {}

  void run(Index first, Index last) {
    for (Index s = 0; s < plan_.num_stages; s++) {
      const Index images = memory_.group[s];
      for (int i = 0; i < 2; i++)
        if (i % member_.count == member_.index) memory_.maps[s][i].clear_margins(images);
    }
    member_.wait();
    const Index top = plan_.num_stages - 1, step = memory_.group[top];
    for (Index i = first; i < last; i += step) {
      const Index count = smaller(step, last - i);
      const Map<Stream>& map = stage(top, i, count);
      if (plan_.pooled) pool(map, i, count);
      member_.wait();
    }
  }

 private:
  // Brings `count` images from `first` on through stage s and all before it.
  const Map<Stream>& stage(Index s, Index first, Index count) {
    const StagePlan<Kernels>& p = plan_.stages[s];
    enter(s, first, count);
    member_.wait();
    const Map<Stream>* maps = memory_.maps[s];
    const Range mine = share(count * p.height * p.width, member_.index, member_.count);
    const void* const* weights = p.blocks;
    int turn = 0;
    for (Index b = 0; b < p.depth; b++, turn ^= 1) {
      const BlockTask<Kernels> task{maps[turn], maps[turn ^ 1], p.channels, p.hidden, plan_.eps};
      clock_.start(s);
      if (has_integers<Kernels> && p.quantised && p.quantised[b]) {
        if constexpr (has_integers<Kernels>)
          run_block(s, task, plan_.quantised_weights(weights), count, mine);
      } else {
        run_block(s, task, plan_.block_weights(weights), count, mine);
      }
      member_.wait();
    }
    if (p.output) copy_out(maps[turn], p, first * p.height * p.width, mine);
    return maps[turn];
  }

  template <class Weights>
  void run_block(Index s, const BlockTask<Kernels>& task, const Weights& w, Index images,
                 Range mine) {
    if (plan_.grn)
      grn_block(task, w, images, member_, memory_.grn[s], tile_, clock_);
    else
      block(task, w, mine, tile_, clock_);
  }

  // Fills the first map of stage s.
  void enter(Index s, Index first, Index count) {
    const StagePlan<Kernels>& p = plan_.stages[s];
    const Map<Stream>& to = memory_.maps[s][0];
    const Range mine = share(p.height * p.width, member_.index, member_.count);
    if (s == 0) {
      clock_.start(s);
      for (Index i = 0; i < count; i++)
        stem(plan_.image(first + i), plan_.stem_shape, plan_.stem_weights, to, i * p.height, mine,
             tile_);
      clock_.lap(PART_ENTRY);
      return;
    }
    const Index step = memory_.group[s - 1];
    for (Index i = 0; i < count; i += step) {
      const Index images = smaller(step, count - i);
      const Map<Stream>& from = stage(s - 1, first + i, images);
      clock_.start(s);
      const Range part = share(images * p.height * p.width, member_.index, member_.count);
      downsample(from, plan_.stages[s - 1].channels, plan_.eps, p.downsample, to, i * p.height, part,
                 tile_);
      clock_.lap(PART_ENTRY);
      member_.wait();  // before the map is overwritten
    }
  }

  void copy_out(const Map<Stream>& map, const StagePlan<Kernels>& p, Index offset, Range range) {
    constexpr Index L = Kernels::lanes;
    Cursor place(range.first, map.width);
    for (Index i = range.first; i < range.last; i++, place.advance(1, map.width)) {
      const Stream* from = map.at(place.row, place.column);
      float* to = p.output + (offset + i) * p.channels;
      for (Index c = 0; c < p.channels; c += L) {
        const Vec<L> v = load<L>(from + c);
        __builtin_memcpy(to + c, &v, smaller(L, p.channels - c) * sizeof(float));
      }
    }
  }

  // The mean over positions, row by row: so sums of large maps keep their precision.
  void pool(const Map<Stream>& map, Index first, Index count) {
    constexpr Index L = Kernels::lanes;
    const Index channels = plan_.stages[plan_.num_stages - 1].channels;
    const float positions = (float)(map.height * map.width);
    for (Index i = member_.index; i < count; i += member_.count)
      for (Index c = 0; c < channels; c += L) {
        Vec<L> total{};
        for (Index y = 0; y < map.height; y++) {
          Vec<L> row{};
          for (Index x = 0; x < map.width; x++) row += load<L>(map.at(i * map.height + y, x) + c);
          total += row;
        }
        total /= positions;
        float* to = plan_.pooled + (first + i) * channels + c;
        __builtin_memcpy(to, &total, smaller(L, channels - c) * sizeof(float));
      }
  }

  const Plan<Kernels>& plan_;
  const TeamMemory<Kernels>& memory_;
  const Tile<Kernels>& tile_;
  const Member member_;
  Clock& clock_;
};

// Buffers of one thread, and of the teams whose memory it holds.
template <class Kernels>
struct ThreadBuffers {
  Tile<Kernels> tile;
  TeamMemory<Kernels> alone, together;  // in the same memory: one after the other

  // `rest` images are for all together, 0 if their memory is another thread's.
  ThreadBuffers(Carver& memory, const Plan<Kernels>& plan, Index own, Index rest, Index threads)
      : tile(memory, plan.tile_sizes()) {
    Carver here = memory;
    alone = TeamMemory<Kernels>(here, plan, own, 1);
    together = TeamMemory<Kernels>(memory, plan, rest, threads);
    memory.reserve(here.used());
  }
};

// One thread's part of a parallel region: alone on its share of the images, then with the others on
// the rest. `together` and `failed` are of the region.
template <class Kernels>
void work(const Plan<Kernels>& plan, Member self, const TeamMemory<Kernels>*& together, int& failed,
          Clock& clock) {
  const Index own = plan.images / self.count, rest = plan.images % self.count;
  const Index held = self.index == 0 ? rest : 0;
  Carver measure(nullptr);
  ThreadBuffers<Kernels> measured(measure, plan, own, held, self.count);
  void* memory = thread_memory(measure.used());
  if (!memory) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
  Carver carver(memory);
  const ThreadBuffers<Kernels> buffers(carver, plan, own, held, self.count);
  if (self.index == 0) together = &buffers.together;
  self.wait();
  if (__atomic_load_n(&failed, __ATOMIC_RELAXED)) return;

  typename Kernels::State state;
  Kernels::enter(state);
  if (own) {
    const Member single{0, 1};
    Walk<Kernels> walk(plan, buffers.alone, buffers.tile, single, clock);
    walk.run(self.index * own, (self.index + 1) * own);
  }
  if (rest) {
    self.wait();  // the memory for all together is that of a thread alone
    Walk<Kernels> walk(plan, *together, buffers.tile, self, clock);
    walk.run(plan.images - rest, plan.images);
  }
  Kernels::leave(state);
}

template <class Kernels>
int run_network(const Request& request) {
  const Plan<Kernels> plan(request);
  if (!plan.sound()) return STATUS_MALFORMED;
  if (plan.images == 0) return STATUS_DONE;
  const TeamMemory<Kernels>* together = nullptr;
  int failed = 0;
  const int threads = omp_in_parallel() ? 1 : (int)request.call.threads;
  publish();
#pragma omp parallel num_threads(threads)
  {
    receive();
    double seconds[CONVNEXT_MAX_STAGES * NUM_PARTS] = {};
    Clock clock(request.profile ? seconds : nullptr);
    work(plan, Member{omp_get_thread_num(), omp_get_num_threads()}, together, failed, clock);
    if (request.profile) {
#pragma omp critical(convnext_profile)
      for (Index i = 0; i < plan.num_stages * NUM_PARTS; i++) request.profile[i] += seconds[i];
    }
    // `together` lies on the stack of a thread: all must have left it
    publish();
#pragma omp barrier
    trim_thread_memory();
  }
  receive();
  return failed ? STATUS_OUT_OF_MEMORY : STATUS_DONE;
}

}  // namespace
}  // namespace convnext
