// Threads that take a step together, and how they wait for each other.
//
// Within a step they meet a few times a layer, some microseconds apart: they spin a little, then yield the core to whoever
// wants it. After a step they do so for a moment more, for the next one has mostly come by then, and waking takes as long as a
// tenth of it on a virtual machine. Then they sleep.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace cortex {

constexpr int kSpins = 2000;
constexpr std::chrono::microseconds kAwake{800};  // after a step

inline void pause_briefly(int& spins) {
    if (++spins > kSpins) {
        sched_yield();
    } else {
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
}

class Barrier {
  public:
    explicit Barrier(int size) : size_(size) {}

    void wait() {
        const int turn = turn_.load(std::memory_order_acquire);
        if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            here_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; turn_.load(std::memory_order_acquire) == turn;) pause_briefly(spins);
    }

  private:
    const int size_;
    alignas(64) std::atomic<int> here_{0};
    alignas(64) std::atomic<int> turn_{0};
};

// Parts of one phase of a step, taken by whoever is free.
class Parts {
  public:
    void reset() { next_.store(0, std::memory_order_relaxed); }

    // Of `count` things, up to `at_once` at a time: act(first, last).
    template <typename Do> void share_out(int count, int at_once, Do&& act) {
        for (;;) {
            const int first = next_.fetch_add(at_once, std::memory_order_relaxed);
            if (first >= count) return;
            act(first, first + at_once < count ? first + at_once : count);
        }
    }

    // The same one by one: act(i).
    template <typename Do> void share(int count, int at_once, Do&& act) {
        share_out(count, at_once, [&](int first, int last) {
            for (int i = first; i < last; i++) act(i);
        });
    }

  private:
    alignas(64) std::atomic<int> next_{0};
};

class Team {
  public:
    explicit Team(int size) : barrier(size), size_(size) {
        for (int i = 1; i < size; i++) threads_.emplace_back([this, i] { serve(i); });
    }

    ~Team() {
        {
            std::lock_guard lock(mutex_);
            ended_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    int size() const { return size_; }

    // Have every thread run it; returns when all have.
    void run(const std::function<void(int)>& work) {
        {
            std::lock_guard lock(mutex_);
            work_ = &work;
            running_.store(size_ - 1, std::memory_order_relaxed);
            number_.fetch_add(1, std::memory_order_release);
        }
        if (size_ > 1) wake_.notify_all();
        work(0);
        for (int spins = 0; running_.load(std::memory_order_acquire);) pause_briefly(spins);
    }

    Barrier barrier;

  private:
    void serve(int index) {
        for (uint64_t seen = 0;;) {
            const std::function<void(int)>* work = nullptr;
            const auto until = std::chrono::steady_clock::now() + kAwake;
            for (int spins = 0; number_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until;)
                pause_briefly(spins);
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return ended_ || number_.load(std::memory_order_relaxed) != seen; });
                if (ended_) return;
                seen = number_.load(std::memory_order_relaxed);
                work = work_;
            }
            (*work)(index);
            running_.fetch_sub(1, std::memory_order_release);
        }
    }

    const int size_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<uint64_t> number_{0};
    std::atomic<int> running_{0};
    bool ended_ = false;
};

}  // namespace cortex
