// TrackPlayer: the newest control as the arrays of each chunk, by the exact rule of tracks/player.py.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "tracks/tracks.hpp"

namespace ms_infer {

namespace {

constexpr double kFitError = 256.0;  // a fit may err by (height + width) / 256 pixels
constexpr std::size_t kNeighbours[] = {12, 6};
constexpr double kSoftening = 2.0, kStraight = 0.04, kReach = 16.0;

using FloatPoint = std::array<float, 2>;

struct Neighbour {
  double dx, dy, square, weight;
  std::size_t row;
};

// All tracks, the nearest to a place first, at equal distance the first rows.
std::vector<Neighbour> neighbours_of(const FloatPoint& place, std::span<const FloatPoint> now) {
  std::vector<Neighbour> near;
  for (std::size_t row = 0; row < now.size(); ++row) {
    const double dx = now[row][0] - place[0], dy = now[row][1] - place[1];
    const double square = dx * dx + dy * dy, distance = std::sqrt(square) + kSoftening;
    near.push_back({dx, dy, square, 1 / (distance * distance), row});
  }
  const auto most = std::min(kNeighbours[0], near.size());
  std::partial_sort(near.begin(), near.begin() + std::ptrdiff_t(most), near.end(), [](const auto& a, const auto& b) {
    return a.square < b.square || (a.square == b.square && a.row < b.row);
  });
  near.resize(most);
  return near;
}

// Displacement at (0, 0) of a weighted affine fit over the neighbours; none when the fit does not hold.
std::optional<Point> affine(std::span<const Neighbour> near, std::span<const FloatPoint> moved, double tolerance) {
  double total = 0, centre_x = 0, centre_y = 0, xx = 0, xy = 0, yy = 0;
  for (const auto& one : near) {
    total += one.weight;
    centre_x += one.weight * one.dx;
    centre_y += one.weight * one.dy;
  }
  centre_x /= total, centre_y /= total;
  for (const auto& one : near) {
    const double x = one.dx - centre_x, y = one.dy - centre_y;
    xx += one.weight * x * x, xy += one.weight * x * y, yy += one.weight * y * y;
  }
  const double spread = xx + yy, area = xx * yy - xy * xy;
  const double far = (centre_x * centre_x + centre_y * centre_y) * total;
  if (!(4 * area > kStraight * (spread * spread) && far <= kReach * spread)) return std::nullopt;
  Point fitted{};
  std::vector<double> errors(near.size());
  for (int axis = 0; axis < 2; ++axis) {
    double mean = 0, along_x = 0, along_y = 0;
    for (const auto& one : near) mean += one.weight * double(moved[one.row][axis]);
    mean /= total;
    for (const auto& one : near) {
      const double rest = moved[one.row][axis] - mean;
      along_x += one.weight * (one.dx - centre_x) * rest;
      along_y += one.weight * (one.dy - centre_y) * rest;
    }
    const double slope_x = (yy * along_x - xy * along_y) / area, slope_y = (xx * along_y - xy * along_x) / area;
    fitted[axis] = mean - slope_x * centre_x - slope_y * centre_y;
    for (std::size_t i = 0; i < near.size(); ++i) {
      const double rest = moved[near[i].row][axis] - mean;
      const double error = rest - slope_x * (near[i].dx - centre_x) - slope_y * (near[i].dy - centre_y);
      errors[i] += error * error;
    }
  }
  double sum = 0;
  for (std::size_t i = 0; i < near.size(); ++i) sum += near[i].weight * errors[i];
  return sum <= tolerance * tolerance * total ? std::optional(fitted) : std::nullopt;
}

// How far the picture at a place has moved, by tracks that are at `now` and have come by `moved`.
Point motion_at(const FloatPoint& place, std::span<const FloatPoint> now, std::span<const FloatPoint> moved,
                double tolerance) {
  const auto near = neighbours_of(place, now);
  if (near.empty()) return {0, 0};
  for (const auto most : kNeighbours) {
    const auto count = std::min(most, near.size());
    if (count < kNeighbours[1]) break;
    if (const auto fitted = affine(std::span(near).first(count), moved, tolerance)) return *fitted;
  }
  return {moved[near[0].row][0], moved[near[0].row][1]};
}

}  // namespace

TrackPlayer::TrackPlayer(PictureSize picture, double fps, int max_tracks, bool hide_outside)
    : picture_(picture), fps_(fps), max_tracks_(max_tracks), hide_outside_(hide_outside) {
  playing_ = std::make_shared<const Playing>(Playing{Tracks::empty(picture, fps), {}});
}

Tracks TrackPlayer::fitted(const Tracks& tracks) const {
  require(tracks.count() <= max_tracks_, MS_ERROR_CONFIG, tracks.count(), " tracks, but this stream takes at most ",
          max_tracks_, "; use a coarser grid");
  return tracks.resample(fps_).to_pixels(picture_, hide_outside_);
}

void TrackPlayer::set(const Tracks* tracks, std::int64_t at_frame) {
  require(at_frame >= start_, MS_ERROR_CONFIG, "a control at RGB frame ", at_frame,
          " is older than the current one at ", start_);
  Playing next{fitted(tracks ? *tracks : Tracks::empty()), {}};
  next.anchors = new_anchors(next.control, at_frame);
  playing_ = std::make_shared<const Playing>(std::move(next));
  start_ = at_frame;
}

void TrackPlayer::fill(std::int64_t first_frame, int count, std::span<float> points, std::span<std::uint8_t> visible,
                       std::span<std::int64_t> ids, std::span<float> anchors) const {
  std::fill(points.begin(), points.end(), 0.0f);
  std::fill(visible.begin(), visible.end(), std::uint8_t{0});
  std::fill(ids.begin(), ids.end(), 0);
  std::fill(anchors.begin(), anchors.end(), 0.0f);
  const Tracks& control = playing_->control;
  for (int track = 0; track < control.count(); ++track) {
    for (int k = 0; k < count; ++k) {
      const auto at = static_cast<int>(std::min<std::int64_t>(first_frame + k - start_, control.frames - 1));
      std::copy_n(control.point(track, at), 2, &points[2 * (std::size_t(track) * count + k)]);
      visible[std::size_t(track) * count + k] = control.seen(track, at);
    }
  }
  std::copy(control.ids.begin(), control.ids.end(), ids.begin());
  if (!anchors.empty()) std::copy(playing_->anchors.begin(), playing_->anchors.end(), anchors.begin());
}

void TrackPlayer::restore(Tracks control, std::vector<float> anchors, std::int64_t start) {
  require(control.count() <= max_tracks_ && anchors.size() == 2 * control.ids.size(), MS_ERROR_CONFIG,
          "the snapshot holds ", control.count(), " tracks and ", anchors.size() / 2, " anchors; expected at most ",
          max_tracks_, " tracks and as many anchors");
  require(start >= 0, MS_ERROR_CONFIG, "the snapshot's tracks start at RGB frame ", start);
  for (const float value : anchors)
    require(std::isfinite(value), MS_ERROR_CONFIG, "the snapshot holds an anchor that is not finite");
  playing_ = std::make_shared<const Playing>(Playing{std::move(control), std::move(anchors)});
  start_ = start;
}

std::vector<float> TrackPlayer::new_anchors(const Tracks& control, std::int64_t at_frame) const {
  std::vector<float> places(2 * control.ids.size());
  for (int track = 0; track < control.count(); ++track) std::copy_n(control.point(track, 0), 2, &places[2 * track]);
  if (at_frame == 0) return places;
  const Tracks& old = playing_->control;
  const auto at = static_cast<int>(
      std::min<std::int64_t>(std::max<std::int64_t>(at_frame - 1 - start_, 0), old.frames - 1));
  std::vector<FloatPoint> now, displacements;
  for (int row = 0; row < old.count(); ++row) {
    if (!old.seen(row, at)) continue;
    const float* place = old.point(row, at);
    const float* anchor = &playing_->anchors[2 * row];
    now.push_back({place[0], place[1]});
    displacements.push_back({place[0] - anchor[0], place[1] - anchor[1]});
  }
  const double tolerance = (picture_.height + picture_.width) / kFitError;
  std::unordered_map<std::int64_t, int> rows;
  for (int row = 0; row < old.count(); ++row) rows.emplace(old.ids[row], row);
  for (int track = 0; track < control.count(); ++track) {
    float* place = &places[2 * track];
    if (const auto kept = rows.find(control.ids[track]); kept != rows.end()) {
      std::copy_n(&playing_->anchors[2 * kept->second], 2, place);
      continue;
    }
    const Point moved = motion_at({place[0], place[1]}, now, displacements, tolerance);
    for (int axis = 0; axis < 2; ++axis) place[axis] = static_cast<float>(place[axis] - moved[axis]);
  }
  return places;
}

}  // namespace ms_infer
