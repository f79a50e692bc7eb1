// Runs CUDA source on a CPU: one fiber per CUDA thread, one block after the other. What the hardware does not promise
// is taken to its limit: shared memory begins as NaN, threads run in random order from one barrier to the next, a
// shuffle waits for no lane but the one it reads from, and any barrier can be switched off by the line it stands on.
// Fused multiply-adds and the memory model are not modelled.
#pragma once
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

using std::isfinite;

struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index {
    int x;
};
static Index threadIdx, blockIdx, gridDim;

constexpr int MOST_SHARED = 1 << 18;
alignas(16) float memory[MOST_SHARED / 4];  // what the source declares as its shared memory

namespace emulation {

constexpr int LANES = 32, PAST_SHUFFLES = 64, MOST_TURNS = 1 << 20;
constexpr size_t STACK = 1 << 16;

enum class Waits { NOT, BLOCK, WARP, LANE, SLOWEST };

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::vector<char> stack;
    bool begun = false, done = false;
    Waits waits = Waits::NOT;
    unsigned generation = 0;  // of the barrier waited for
    int source = 0;           // lane waited for
    long shuffles = 0;
    uint64_t given[PAST_SHUFFLES];
};

struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
};

static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static Barrier whole;
static jmp_buf scheduler;
static ucontext_t back;
static int current, threads, disabled_line;
static uint64_t state;
static std::vector<char> met;  // by line: a barrier that some thread came to
static void (*body)();

static uint32_t random_number() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
}

static void yield() {
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

static void begin() {
    body();
    fibers[current].done = true;
    _longjmp(scheduler, 1);
}

static Fiber& lane_of(const Fiber& f, int lane) {
    return fibers[(&f - fibers.data()) / LANES * LANES + lane];
}

static bool can_run(const Fiber& f) {
    const int number = static_cast<int>(&f - fibers.data());
    switch (f.waits) {
        case Waits::NOT: return true;
        case Waits::BLOCK: return whole.generation != f.generation;
        case Waits::WARP: return warps[number / LANES].generation != f.generation;
        case Waits::LANE: return lane_of(f, f.source).shuffles > f.shuffles - 1;
        case Waits::SLOWEST:
            for (int k = 0; k < LANES; k++)
                if (lane_of(f, k).shuffles + PAST_SHUFFLES - 1 <= f.shuffles) return false;
            return true;
    }
    return false;
}

static void wait(Waits waits) {
    Fiber& f = fibers[current];
    f.waits = waits;
    yield();
    fibers[current].waits = Waits::NOT;
}

static void meet(Barrier& barrier, int count, Waits waits, int line) {
    if (line >= static_cast<int>(met.size())) met.resize(line + 1);
    met[line] = 1;
    if (line == disabled_line) return;
    fibers[current].generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        barrier.generation++;
    } else {
        wait(waits);
    }
}

template <typename Number>
static Number shuffle(Number value, int source) {
    Fiber& f = fibers[current];
    if (!can_run((f.waits = Waits::SLOWEST, f))) yield();
    f.waits = Waits::NOT;
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const long mine = f.shuffles;
    f.given[mine % PAST_SHUFFLES] = bits;
    f.shuffles++;
    f.source = source;
    const Fiber& other = lane_of(f, source);
    if (other.shuffles <= mine) wait(Waits::LANE);
    std::memcpy(&value, &other.given[mine % PAST_SHUFFLES], sizeof value);
    return value;
}

// A step that leads from any thread to all others.
static uint32_t coprime(uint32_t number) {
    for (number = number % threads | 1; std::gcd(number, static_cast<uint32_t>(threads)) != 1;) number += 2;
    return number;
}

// Runs whoever can, in random order, each with an even chance, until all are done. False: nobody can, or it takes for
// ever.
static bool run_block(int block) {
    std::memset(memory, 0xFF, sizeof memory);
    whole = Barrier();
    warps.assign(threads / LANES, Barrier());
    for (Fiber& f : fibers) {
        f.begun = f.done = false;
        f.waits = Waits::NOT;
        f.shuffles = 0;
    }
    for (int idle = 0, turns = 0; turns < MOST_TURNS; turns++) {
        bool left = false, ran = false;
        const uint32_t first = random_number() % threads, stride = coprime(random_number());
        uint32_t chances = 0;
        for (int k = 0; k < threads; k++) {
            const int number = (first + k * stride) % threads;
            if (k % 16 == 0) chances = random_number();
            chances >>= 1;
            Fiber& f = fibers[number];
            if (f.done) continue;
            left = true;
            if (!can_run(f)) continue;
            ran = true;
            if (chances & 1) continue;
            current = number;
            threadIdx.x = number;
            blockIdx.x = block;
            if (!_setjmp(scheduler)) {
                if (f.begun) _longjmp(f.place, 1);
                f.begun = true;
                getcontext(&f.start);
                f.start.uc_stack.ss_sp = f.stack.data();
                f.start.uc_stack.ss_size = f.stack.size();
                f.start.uc_link = nullptr;
                makecontext(&f.start, begin, 0);
                swapcontext(&back, &f.start);
            }
        }
        if (!left) return true;
        if (!ran && ++idle > 2) return false;
    }
    return false;
}

// Memory that no barrier protects may hold anything, pointers too.
static sigjmp_buf before_fault;
static void on_fault(int) { siglongjmp(before_fault, 1); }

// All blocks of a launch. Barriers on line `without` are left out (0: none). 0: done, 1: threads waited for ever, or
// went astray.
static int run(int blocks, int threads_of_block, uint64_t seed, int without, void (*kernel)()) {
    threads = threads_of_block;
    fibers.resize(threads);
    for (Fiber& f : fibers) f.stack.resize(STACK);
    gridDim.x = blocks;
    disabled_line = without;
    state = seed * 2 + 1;
    body = kernel;
    struct sigaction own = {}, before;
    own.sa_handler = on_fault;
    sigaction(SIGSEGV, &own, &before);
    bool done = !sigsetjmp(before_fault, 1);
    for (int block = 0; done && block < blocks; block++) done = run_block(block);
    sigaction(SIGSEGV, &before, nullptr);
    return done ? 0 : 1;
}

}  // namespace emulation

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__
#define __forceinline__ inline
#define __noinline__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __syncthreads() emulation::meet(emulation::whole, emulation::threads, emulation::Waits::BLOCK, __LINE__)
#define __syncwarp() \
    emulation::meet(emulation::warps[emulation::current / 32], 32, emulation::Waits::WARP, __LINE__)
#define __shfl_sync(lanes, value, source) emulation::shuffle(value, source)
#define __shfl_xor_sync(lanes, value, mask) emulation::shuffle(value, (emulation::current % 32) ^ (mask))
