// What a user does to the picture while a stream runs: press, move, release, paint, hold, steer the camera; hand/hand.py
// in C++, bit for bit: docs/reference/hand.md is the rule of both.
#pragma once

#include <limits>
#include <mutex>
#include <variant>

#include "files/files.hpp"
#include "hand/dots.hpp"
#include "hand/movers.hpp"

namespace ms_infer {

constexpr double kHandRim = 1.4;  // share of a reach, and of the grid's spacing, within which resting points are let go

// Positions are shares of the picture; times are seconds on any clock that only goes forward. Any thread may call.
class Hand {
 public:
  struct Options {
    int rows = 10, cols = 10;
    double aspect = 1.0, fps = 16.0;
    std::int64_t capacity = 256;
  };
  static constexpr std::int64_t kEveryPointer = std::numeric_limits<std::int64_t>::min();

  explicit Hand(const Options& options);

  void hold(bool rest, bool released);
  void grid(int rows, int cols);
  void reset();
  // Returns how many points it holds.
  int press(std::int64_t pointer, const Point& point, double at, double reach, std::span<const Point> thing = {});
  void move(std::int64_t pointer, const Point& point, double at);
  void release(std::int64_t pointer);
  void fix(std::span<const Point> points);
  void brush(std::span<const Point> points);
  void remove(std::span<const Point> points);
  int path(std::span<const Point> points, double seconds, double reach, std::span<const Point> thing = {});
  void steer(const Stick& stick);
  void carry(const Stick& way);
  void play(const Tracks* tracks, bool loop);
  // movement [rows, cols, 2]; empty: no more pushes
  void push(std::span<const double> movement, int rows, int cols);

  // Moves on by `frames` RGB frames with all that happened until `now`.
  Tracks tracks(double now, int frames);
  // What each of the points is that `tracks` returned last.
  std::vector<Kind> kinds() const;

  // Everything that later tracks depend on: the arrays of hand/saved.py as one safetensors document.
  Bytes save(double now) const;
  // Goes on where the saved one stood, at `now`; MS_ERROR_CONFIG for what no hand of this capacity saved changes nothing.
  void load(double now, Bytes saved);

 private:
  friend struct SavedHand;
  struct Hold {
    std::variant<PointerMover, PathMover> mover;
    std::vector<std::int64_t> ids;
    std::optional<std::int64_t> pointer;  // that is down

    bool done() const {
      return std::visit([](const auto& one) { return one.done(); }, mover);
    }
  };
  struct Playing {
    Tracks tracks;
    std::vector<std::int64_t> ids;
  };
  struct Pushes {
    std::vector<Point> steps;  // [point, frame]
    Mask held;                 // that the camera leaves
  };

  void clear();
  void let_go_of(std::int64_t pointer);
  int add_hold(std::variant<PointerMover, PathMover> mover, const Mask& along, Kind kind,
               std::optional<std::int64_t> pointer);
  template <class Mover>
  std::size_t count() const;
  void free_grid_near(std::span<const Point> places, bool free);
  void set_stick(int frames);
  void tidy();
  Pushes pushes(double now, int frames);
  void push_by_field(Pushes& all, const Mask& moved, int frames);
  void move_camera(const Mask& held, double part);
  int place_in(const Tracks& tracks, int frame) const;
  // Rows of the points that are played, and the row of each in its tracks.
  std::vector<std::pair<std::size_t, int>> played_rows() const;
  Mask seen(int frame) const;
  void hide_covered(Mask& seen) const;
  void let_go();

  mutable std::mutex lock_;
  double aspect_, fps_;
  bool hold_rest_ = true, hold_released_ = true, loop_ = false;
  Dots dots_;
  int rows_ = 0, cols_ = 0;
  Stick stick_, steered_, stick_before_;
  std::array<double, 4> way_{};
  std::vector<Hold> holds_;
  std::optional<Playing> playing_;
  std::int64_t played_ = 0;
  std::optional<Field> field_;
  double last_ = -std::numeric_limits<double>::infinity();
  std::vector<Kind> kinds_;
};

}  // namespace ms_infer
