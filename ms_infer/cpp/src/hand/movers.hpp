// What moves the points of a hand: a pointer, a drawn path, the camera's stick, a motion field; hand/movers.py in C++.
// float64 in the order that is written, nothing fused: docs/reference/hand.md is the rule.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "tracks/tracks.hpp"

namespace ms_infer {

constexpr std::size_t kMaxHistory = 512;  // pointer positions kept between two chunks
// What the camera's stick moves in a second at full speed: pictures, pictures, e-folds, radians.
constexpr std::array<double, 4> kFullSpeed{0.12, 0.12, 0.22, 0.25};

// A drag. Its history between two chunks is replayed on the RGB frames of the next one.
class PointerMover {
 public:
  PointerMover(Point point, double at);
  void move(Point point, double at);
  void release() { up_ = true; }
  // Movement of each RGB frame: the history of [last, now] seconds, at most a fixed step a frame.
  std::vector<Point> steps(double last, double now, int frames);
  // Whether it was released and has arrived.
  bool done() const;

 private:
  friend struct SavedHand;

  Point step(const Point& wanted);

  std::vector<double> times_;
  std::vector<Point> points_;
  Point applied_;
  bool up_ = false, fresh_ = true;
};

// A polyline, followed at constant speed over `seconds` of video.
class PathMover {
 public:
  PathMover(std::vector<Point> corners, double seconds);
  std::vector<Point> steps(int frames, double fps);
  bool done() const { return done_; }

 private:
  friend struct SavedHand;

  std::vector<Point> corners_;
  std::vector<double> along_{0.0};
  double seconds_;
  std::int64_t played_ = 0;
  Point applied_;
  bool done_ = false;
};

// The camera's speed, each -1..1; a change is spread over one chunk.
struct Stick {
  std::array<double, 4> axes{};  // x, y, zoom, roll

  bool moving() const;
  Stick towards(const Stick& other, double part) const;
  // A point one RGB frame later.
  Point moved(const Point& point, double fps, double aspect) const;
};

// Movement that pushes points, gathered between two chunks.
class Field {
 public:
  // movement [rows, cols, 2]
  void add(std::span<const double> movement, int rows, int cols);
  // Movement at points since the last call.
  std::vector<Point> take(std::span<const Point> points);

 private:
  friend struct SavedHand;

  int rows_ = 0, cols_ = 0;
  std::vector<double> sum_;  // empty: nothing was added
};

}  // namespace ms_infer
