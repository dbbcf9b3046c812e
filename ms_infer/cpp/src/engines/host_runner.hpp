// Stage by stage on the host: the runner of engines whose work is done when a call returns; engines/host.py in C++.
#pragma once

#include <chrono>

#include "engines/runner.hpp"

namespace ms_infer {

// Computes stages over host arrays.
class StageCaller {
 public:
  virtual ~StageCaller() = default;

  // Gets ready for the first chunk.
  virtual void load() = 0;
  // States are read from `side` and written to the other one.
  virtual void call(Stage stage, int side) = 0;
  // Lets the caches hold the keys and values of the chunk as the pass that ran last made them.
  virtual void keep_pass() = 0;
};

// Composes a chunk from single calls.
class HostRunner final : public ChunkRunner {
 public:
  HostRunner(HostArrays& arrays, std::unique_ptr<StageCaller> stages, const RunnerSettings& settings);

  void load() override { stages_->load(); }
  void run(Stage stage) override;
  void hand_over(Stage) override {}  // stages share their arrays already

  void prepare() override { last_ = Clock::now(); }
  void move_rows(std::int64_t target, std::int64_t source, std::int64_t rows) override;
  void start(bool opening, bool tracked, std::span<const PassInputs> passes) override;
  std::span<const std::uint8_t> frames() override;
  void commit() override;
  StageTimes times() const override { return times_; }

  void write(const PassInputs& pass) override;
  void write_given(const PassInputs& pass) override;

  Tensors kept() override;
  void keep(const Tensors& tensors) override;
  void reset() override;

 private:
  using Clock = std::chrono::steady_clock;

  void call(Stage stage);
  void pass(const PassInputs& inputs);
  void last_pass(const PassInputs& inputs);
  void lap(float StageTimes::* stage);
  // The caches, and the states of the side that is read next.
  TensorPlaces everything();

  HostArrays& arrays_;
  std::unique_ptr<StageCaller> stages_;
  const std::atomic<bool>* cancelled_;
  std::span<float> x_, x_next_, time_, sigma_, next_sigma_, noise_;
  std::array<std::span<const std::uint8_t>, 2> frames_;  // [opening]
  std::span<const PassInputs> passes_;
  bool opening_ = false, tracked_ = false;
  int encoder_side_ = 0, decoder_side_ = 0, grey_side_ = 0;
  StageTimes times_;
  Clock::time_point last_;
};

}  // namespace ms_infer
