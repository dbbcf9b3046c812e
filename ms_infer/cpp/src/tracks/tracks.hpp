// Points over time, the motion control: the parts of tracks/tracks.py that a host program needs, number for number.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "error.hpp"

namespace ms_infer {

struct PictureSize {
  int height = 0, width = 0;
  bool operator==(const PictureSize&) const = default;
};

using Point = std::array<double, 2>;

constexpr std::int64_t kMaxSamples = std::int64_t{1} << 25;  // points x RGB frames of one Tracks

// MS_ERROR_CONFIG unless the number is finite and above 0.
void check_positive(const char* name, double value);
// MS_ERROR_CONFIG when so many points over so many RGB frames are too many.
void check_samples(std::int64_t count, double frames);

// What a moving camera does to the points of a picture; tracks/camera.py in C++.
struct CameraMove {
  Point pan{0, 0};
  double zoom = 1, roll = 0, dolly = 0;  // roll in degrees, clockwise
  double aspect = 0;                     // width / height; 0: not known
  double seconds = 1, start = 0;
  bool smooth = true;
  std::vector<float> depth;  // [depth_size] distances over the picture; empty: 1 everywhere
  PictureSize depth_size;
};

// Immutable once shared. Every method gives new tracks.
class Tracks {
 public:
  std::vector<float> points;          // [count, frames, 2]
  std::vector<std::uint8_t> visible;  // [count, frames]
  std::vector<std::int64_t> ids;      // [count]
  std::optional<PictureSize> size;    // that the coordinates refer to; none: coordinates are 0..1
  double fps = 16.0;
  int frames = 1;

  // Checked as Tracks.__init__ does: MS_ERROR_CONFIG on NaN, repeated ids, coordinates out of range.
  static Tracks make(std::vector<float> points, std::vector<std::uint8_t> visible, std::vector<std::int64_t> ids,
                     int frames, std::optional<PictureSize> size, double fps);
  static Tracks empty(std::optional<PictureSize> size = {}, double fps = 16.0);
  static Tracks grid(int rows, int columns, std::optional<PictureSize> size, double fps);

  int count() const { return static_cast<int>(ids.size()); }
  const float* point(int track, int frame) const { return &points[2 * (std::size_t(track) * frames + frame)]; }
  bool seen(int track, int frame) const { return visible[std::size_t(track) * frames + frame] != 0; }

  // Along `corners`, the first of which is the point; radius 0 moves only the nearest point.
  Tracks path(std::span<const Point> corners, double seconds, double radius, double start, bool smooth) const;
  // All within `radius` as one stiff thing from corner to corner; what it covers and its rim become invisible.
  Tracks grab(const Point& point, const Point& to, double seconds, double radius, double start) const;
  Tracks camera(const CameraMove& move) const;
  Tracks with_static(std::span<const Point> places) const;
  // `given` takes these units and fps, and new ids where its own are taken.
  Tracks merge(const Tracks& given) const;
  Tracks select(std::span<const std::int64_t> wanted) const;
  Tracks select_visible() const;
  Tracks resample(double new_fps) const;
  // So many RGB frames at the same rate: the motion gets faster or slower.
  Tracks stretched(int new_frames) const;
  // Coordinates in pixels; points outside of the picture become invisible.
  Tracks to_pixels(PictureSize picture, bool hide_outside = true) const;

  // MS_ERROR_CONFIG unless ids, numbers and their range are such as tracks can have.
  void check() const;

 private:
  // A motion's first RGB frame, its progress 0..1 at each, and these tracks made long enough.
  struct Timeline;

  // RGB frame k is read at where[k]: positions linear, visibility that of floor(where + 0.5).
  Tracks sampled(std::span<const double> where, double new_fps) const;
  Tracks extended(std::int64_t new_frames) const;
  Tracks in_units_of(std::optional<PictureSize> wanted) const;
  Tracks rows(std::span<const std::size_t> wanted) const;
  Timeline timeline(double seconds, double start, bool smooth) const;
  std::vector<double> falloff(const Point& point, int frame, double radius) const;
};

// Plays the newest control; the rule is in the docstring of `TrackPlayer` in tracks/player.py. Cheap to copy.
class TrackPlayer {
 public:
  TrackPlayer() = default;
  TrackPlayer(PictureSize picture, double fps, int max_tracks, bool hide_outside = true);

  // What `set` plays of tracks: in pixels and at the stream's fps; depends on nothing that plays already.
  // MS_ERROR_CONFIG when there are too many.
  Tracks fitted(const Tracks& tracks) const;
  // Replaces the control from an RGB frame on; nullptr: no tracks. MS_ERROR_CONFIG as above.
  void set(const Tracks* tracks, std::int64_t at_frame);

  // Fills the arrays of `count` RGB frames: points [max, count, 2], visible [max, count], ids [max], anchors [max, 2].
  void fill(std::int64_t first_frame, int count, std::span<float> points, std::span<std::uint8_t> visible,
            std::span<std::int64_t> ids, std::span<float> anchors) const;

  // What a snapshot holds.
  const Tracks& control() const { return playing_->control; }
  const std::vector<float>& anchors() const { return playing_->anchors; }
  std::int64_t start() const { return start_; }
  void restore(Tracks control, std::vector<float> anchors, std::int64_t start);

 private:
  struct Playing {
    Tracks control;
    std::vector<float> anchors;  // [count, 2]
  };

  std::vector<float> new_anchors(const Tracks& control, std::int64_t at_frame) const;

  PictureSize picture_;
  double fps_ = 16.0;
  int max_tracks_ = 0;
  bool hide_outside_ = true;
  std::shared_ptr<const Playing> playing_;
  std::int64_t start_ = 0;
};

}  // namespace ms_infer
