// TrackPlayer: the newest control as the arrays of each chunk, by the exact rule of tracks/player.py.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "tracks.hpp"

namespace ms_infer {

TrackPlayer::TrackPlayer(PictureSize picture, double fps, int max_tracks)
    : picture_(picture), fps_(fps), max_tracks_(max_tracks) {
  playing_ = std::make_shared<const Playing>(Playing{Tracks::empty(picture, fps), {}});
}

void TrackPlayer::set(const Tracks* tracks, std::int64_t at_frame) {
  const Tracks none = Tracks::empty();
  const Tracks& wanted = tracks ? *tracks : none;
  require(wanted.count() <= max_tracks_, MS_ERROR_CONFIG, wanted.count(), " tracks, but this stream takes at most ",
          max_tracks_, "; use a coarser grid");
  require(at_frame >= start_, MS_ERROR_CONFIG, "a control at RGB frame ", at_frame,
          " is older than the current one at ", start_);
  Playing next{wanted.resample(fps_).to_pixels(picture_), {}};
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
  std::unordered_map<std::int64_t, int> rows;
  for (int row = 0; row < old.count(); ++row) rows.emplace(old.ids[row], row);
  for (int track = 0; track < control.count(); ++track) {
    float* place = &places[2 * track];
    if (const auto kept = rows.find(control.ids[track]); kept != rows.end()) {
      std::copy_n(&playing_->anchors[2 * kept->second], 2, place);
      continue;
    }
    int nearest = -1;
    double least = 0;
    for (int row = 0; row < old.count(); ++row) {
      if (!old.seen(row, at)) continue;
      const double dx = old.point(row, at)[0] - place[0], dy = old.point(row, at)[1] - place[1];
      const double distance = dx * dx + dy * dy;
      if (nearest < 0 || distance < least) least = distance, nearest = row;
    }
    for (int axis = 0; nearest >= 0 && axis < 2; ++axis)
      place[axis] -= old.point(nearest, at)[axis] - playing_->anchors[2 * nearest + axis];
  }
  return places;
}

}  // namespace ms_infer
