// What moves in a video: points over time (ms::Tracks) and a live hand that makes them (ms::Hand). Part of ms_infer.hpp.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "ms_infer/ms_infer.h"

namespace ms {

// A status other than MS_OK, with the library's words.
class Error : public std::runtime_error {
 public:
  Error(ms_status status, const char* words) : std::runtime_error(words), status_(status) {}
  ms_status status() const noexcept { return status_; }

 private:
  ms_status status_;
};

inline void check(ms_status status) {
  if (status != MS_OK) throw Error(status, ms_last_error());
}

struct Point {
  double x = 0, y = 0;
};

// A camera move; `aspect` = width / height is needed for roll with 0..1 coordinates.
struct Camera {
  Point pan = {};                    // the content moves by so much, in the units of the coordinates
  double zoom = 1.0;                 // factor by which the content grows
  double roll = 0.0, dolly = 0.0;    // degrees clockwise; forward, in the unit of the depth
  double seconds = 1.0, start = 0.0, aspect = 0.0;
  bool smooth = true;
  std::span<const float> depth = {};  // [depth_height, depth_width] distances over the picture; empty: 1 everywhere
  int depth_height = 0, depth_width = 0;
};

// Immutable points over time; in pixels of a picture, or in 0..1 without one. Copies share.
class Tracks {
 public:
  struct Picture {
    int width = 0, height = 0;
  };
  struct Motion {
    double seconds = 1.0, radius = 0.0, start = 0.0;
  };

  Tracks() = default;  // no tracks at all

  static Tracks grid(int rows, int columns, Picture picture = {0, 0}, double fps = 16.0) {
    return made([&](ms_tracks** to) { return ms_tracks_grid(rows, columns, picture.width, picture.height, fps, to); });
  }

  // points [count, frames, 2]; visible [count, frames] and ids [count], or empty.
  static Tracks make(std::span<const float> points, int count, int frames, std::span<const std::uint8_t> visible = {},
                     std::span<const std::int64_t> ids = {}, Picture picture = {0, 0}, double fps = 16.0) {
    const auto places = static_cast<std::size_t>(count) * static_cast<std::size_t>(frames);
    if (points.size() != 2 * places || (!visible.empty() && visible.size() != places) ||
        (!ids.empty() && ids.size() != static_cast<std::size_t>(count)))
      throw Error(MS_ERROR_CONFIG, "points, visible and ids do not have the sizes of count and frames");
    return made([&](ms_tracks** to) {
      return ms_tracks_create(points.data(), visible.empty() ? nullptr : visible.data(), ids.empty() ? nullptr : ids.data(),
                              count, frames, picture.width, picture.height, fps, to);
    });
  }

  // .npz or .json; picture and fps (0: 16) speak for what the file does not say.
  static Tracks load(const std::string& path, Picture picture = {0, 0}, double fps = 0) {
    return made([&](ms_tracks** to) { return ms_tracks_load(path.c_str(), picture.width, picture.height, fps, to); });
  }
  void save(const std::string& path) const { check(ms_tracks_save(get(), path.c_str())); }

  // All within motion.radius as one stiff thing: the way to move a thing.
  Tracks grab(Point from, Point to, Motion motion) const {
    return made([&](ms_tracks** moved) {
      return ms_tracks_grab(get(), from.x, from.y, to.x, to.y, motion.seconds, motion.radius, motion.start, moved);
    });
  }
  // The surface bends: with a radius points come along with cosine falloff, without one the nearest alone.
  Tracks drag(Point from, Point to, Motion motion = {1.0, 0.0, 0.0}) const {
    const std::array corners{from, to};
    return path(corners, motion, true);
  }
  Tracks path(std::span<const Point> corners, Motion motion = {1.0, 0.0, 0.0}, bool smooth = false) const {
    return made([&](ms_tracks** moved) {
      return ms_tracks_path(get(), corners.empty() ? nullptr : &corners[0].x, static_cast<int>(corners.size()),
                            motion.seconds, motion.radius, motion.start, smooth, moved);
    });
  }
  Tracks camera(const Camera& move) const {
    ms_camera camera = {};
    camera.struct_size = sizeof camera;
    if (move.depth.size() != std::size_t(move.depth_height) * std::size_t(move.depth_width))
      throw Error(MS_ERROR_CONFIG, "the depth does not have depth_height x depth_width values");
    camera.pan_x = move.pan.x, camera.pan_y = move.pan.y, camera.zoom = move.zoom, camera.roll = move.roll;
    camera.dolly = move.dolly, camera.aspect = move.aspect, camera.linear = !move.smooth;
    camera.seconds = move.seconds, camera.start = move.start;
    camera.depth = move.depth.empty() ? nullptr : move.depth.data();
    camera.depth_height = move.depth_height, camera.depth_width = move.depth_width;
    return made([&](ms_tracks** moved) { return ms_tracks_camera(get(), &camera, moved); });
  }
  // With points that must not move.
  Tracks with_static(std::span<const Point> points) const {
    return made([&](ms_tracks** all) {
      return ms_tracks_static(get(), points.empty() ? nullptr : &points[0].x, static_cast<int>(points.size()), all);
    });
  }
  Tracks merge(const Tracks& other) const {
    return made([&](ms_tracks** all) { return ms_tracks_merge(get(), other.get(), all); });
  }
  Tracks select(std::span<const std::int64_t> ids) const {
    static constexpr std::int64_t none = 0;  // no ids are not the same as no choice
    return made([&](ms_tracks** some) {
      return ms_tracks_select(get(), ids.empty() ? &none : ids.data(), static_cast<int>(ids.size()), some);
    });
  }
  Tracks select_visible() const {
    return made([&](ms_tracks** some) { return ms_tracks_select(get(), nullptr, 0, some); });
  }
  Tracks resample(double fps) const {
    return made([&](ms_tracks** resampled) { return ms_tracks_resample(get(), fps, resampled); });
  }
  Tracks stretch(int frames) const {
    return made([&](ms_tracks** stretched) { return ms_tracks_stretch(get(), frames, stretched); });
  }

  const ms_tracks* get() const noexcept { return tracks_.get(); }

 private:
  friend class Hand;
  explicit Tracks(ms_tracks* made) : tracks_(made, ms_tracks_destroy) {}

  // What a function of the C interface hands out.
  template <class Make>
  static Tracks made(Make&& make) {
    ms_tracks* handle = nullptr;
    check(make(&handle));
    return Tracks(handle);
  }

  std::shared_ptr<const ms_tracks> tracks_;
};

// What a user does with the picture while a stream runs; any thread may call. Positions are 0..1 of the picture, reaches
// picture heights, times seconds on any clock that only goes forward.
class Hand {
 public:
  struct Options {
    int rows = 10, cols = 10;          // of points that rest on the picture and say what stays
    double aspect = 1.0, fps = 16.0;   // width / height of the picture; rate of the video
    int capacity = 256;                // most points, no more than the model's max_tracks
  };

  Hand() : Hand(Options{}) {}
  explicit Hand(const Options& options) {
    ms_hand* made = nullptr;
    check(ms_hand_create(options.rows, options.cols, options.aspect, options.fps, options.capacity, &made));
    hand_.reset(made);
  }

  // Whether points that nobody moves, and those that were let go, stay where they are; else they are free.
  void hold(bool rest, bool released) { check(ms_hand_options(get(), rest, released)); }
  // A pointer of any number takes along what is within reach, or a thing upon which the points of `thing` lie.
  void press(std::int64_t pointer, double x, double y, double at, double reach = 0.15, std::span<const Point> thing = {}) {
    check(ms_hand_press(get(), pointer, x, y, at, reach, numbers(thing), size(thing)));
  }
  void move(std::int64_t pointer, double x, double y, double at) { check(ms_hand_move(get(), pointer, x, y, at)); }
  void release(std::int64_t pointer) { check(ms_hand_release(get(), pointer)); }
  void release_all() { release(INT64_MIN); }
  // Points that stay; that move together; take such away; take what is near the first, or a thing, along the others.
  void add_static(std::span<const Point> points) { check(ms_hand_static(get(), numbers(points), size(points))); }
  void brush(std::span<const Point> points) { check(ms_hand_brush(get(), numbers(points), size(points))); }
  void remove(std::span<const Point> points) { check(ms_hand_remove(get(), numbers(points), size(points))); }
  void path(std::span<const Point> points, double seconds, double reach = 0.15, std::span<const Point> thing = {}) {
    check(ms_hand_path(get(), numbers(points), size(points), seconds, reach, numbers(thing), size(thing)));
  }
  // Speed of the camera from now on, each -1..1; or a way that it goes: pictures, e-folds, radians.
  void steer(double x, double y, double zoom = 0, double roll = 0) { check(ms_hand_steer(get(), x, y, zoom, roll)); }
  void carry(double x, double y, double zoom = 0, double roll = 0) { check(ms_hand_carry(get(), x, y, zoom, roll)); }
  // Starts over: with this grid, or with tracks that are played in its place, once or for ever.
  void grid(int rows, int cols) { check(ms_hand_grid(get(), rows, cols)); }
  void play(const Tracks& tracks, bool loop = false) { check(ms_hand_play(get(), tracks.get(), loop)); }
  // Movement [rows, cols, 2] of the picture's cells until the next chunk; empty: no more pushes.
  void push(std::span<const double> movement, int rows, int cols) {
    if (movement.size() != 2 * std::size_t(rows) * std::size_t(cols))
      throw Error(MS_ERROR_CONFIG, "the movement does not have rows x cols x 2 values");
    check(ms_hand_push(get(), movement.empty() ? nullptr : movement.data(), rows, cols));
  }
  // The tracks of the next chunk, of `stream.info().next_rgb_frames` frames: give them to `stream.set_tracks`.
  Tracks tracks(double now, int frames) {
    return Tracks::made([&](ms_tracks** made) { return ms_hand_tracks(get(), now, frames, made); });
  }
  // All that later tracks depend on, for a file or another hand of the same options; nobody else may change it meanwhile.
  std::vector<unsigned char> save(double now) const {
    std::size_t size = 0;
    check(ms_hand_save(get(), now, nullptr, &size));
    std::vector<unsigned char> bytes(size);
    check(ms_hand_save(get(), now, bytes.data(), &size));
    return bytes;
  }
  // Goes on from there as if it had been saved at `now`; what is refused changes nothing.
  void load(double now, std::span<const unsigned char> saved) {
    check(ms_hand_load(get(), now, saved.data(), saved.size()));
  }

 private:
  struct Destroy {
    void operator()(ms_hand* hand) const noexcept { ms_hand_destroy(hand); }
  };
  static const double* numbers(std::span<const Point> points) { return points.empty() ? nullptr : &points[0].x; }
  static int size(std::span<const Point> points) { return static_cast<int>(points.size()); }
  ms_hand* get() const { return hand_.get(); }

  std::unique_ptr<ms_hand, Destroy> hand_;
};

}  // namespace ms
