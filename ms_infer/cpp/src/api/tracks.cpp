// The C interface: tracks, the motion control.
#include <algorithm>

#include "tracks/files.hpp"
#include "api/common.hpp"

using namespace ms_infer::api;
using ms_infer::require;
using ms_infer::Tracks;

namespace {

std::optional<ms_infer::PictureSize> picture_size(int32_t width, int32_t height) {
  if (width == 0 && height == 0) return std::nullopt;
  require(width > 0 && height > 0, MS_ERROR_CONFIG, "width x height is ", width, " x ", height,
          "; expected both positive, or both 0 for coordinates 0..1");
  return ms_infer::PictureSize{height, width};
}

// Hands out what a change makes of tracks.
template <class Change>
ms_status changed(const ms_tracks* tracks, ms_tracks** target, Change&& change) {
  return guarded([&] {
    *given(target, "the target") = nullptr;
    hand_out(target, change(*given(tracks, "tracks")->tracks));
  });
}

}  // namespace

extern "C" {

ms_status ms_tracks_create(const float* points, const uint8_t* visible, const int64_t* ids, int32_t count,
                           int32_t frames, int32_t width, int32_t height, double fps, ms_tracks** tracks) {
  return guarded([&] {
    *given(tracks, "tracks") = nullptr;
    require(count >= 0 && frames >= 1 && std::int64_t{count} * frames <= std::int64_t{1} << 25, MS_ERROR_CONFIG, count,
            " tracks over ", frames, " RGB frames; expected 0 or more tracks, 1 or more frames, at most 2^25 positions");
    const std::size_t places = static_cast<std::size_t>(count) * static_cast<std::size_t>(frames);
    if (places) given(points, "points");
    std::vector<std::uint8_t> seen(places, 1);
    std::vector<std::int64_t> names(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = ids ? ids[i] : static_cast<std::int64_t>(i);
    for (std::size_t i = 0; visible && i < places; ++i) {
      require(visible[i] <= 1, MS_ERROR_CONFIG, "visible must hold only 0 and 1, not ", int(visible[i]));
      seen[i] = visible[i];
    }
    hand_out(tracks, ms_infer::Tracks::make({points, points + 2 * places}, std::move(seen), std::move(names), frames,
                                            picture_size(width, height), fps));
  });
}

ms_status ms_tracks_grid(int32_t rows, int32_t columns, int32_t width, int32_t height, double fps,
                         ms_tracks** tracks) {
  return guarded([&] {
    *given(tracks, "tracks") = nullptr;
    hand_out(tracks, ms_infer::Tracks::grid(rows, columns, picture_size(width, height), fps));
  });
}

ms_status ms_tracks_path(const ms_tracks* tracks, const double* corners, int32_t count, double seconds, double radius,
                         double start, int32_t smooth, ms_tracks** moved) {
  return changed(tracks, moved, [&](const Tracks& from) {
    return from.path(places_of(corners, count), seconds, radius, start, smooth != 0);
  });
}

ms_status ms_tracks_grab(const ms_tracks* tracks, double x, double y, double to_x, double to_y, double seconds,
                         double radius, double start, ms_tracks** moved) {
  return changed(tracks, moved, [&](const Tracks& from) { return from.grab({x, y}, {to_x, to_y}, seconds, radius, start); });
}

ms_status ms_tracks_camera(const ms_tracks* tracks, const ms_camera* camera, ms_tracks** moved) {
  return changed(tracks, moved, [&](const Tracks& from) {
    const ms_camera wanted = read_struct(camera, "camera");
    ms_infer::CameraMove move;
    move.pan = {wanted.pan_x, wanted.pan_y};
    move.zoom = wanted.zoom == 0 ? move.zoom : wanted.zoom;
    move.roll = wanted.roll, move.aspect = wanted.aspect, move.dolly = wanted.dolly;
    move.seconds = wanted.seconds == 0 ? move.seconds : wanted.seconds;
    move.start = wanted.start, move.smooth = wanted.linear == 0;
    move.depth_size = {wanted.depth_height, wanted.depth_width};
    if (wanted.depth) {
      const std::int64_t rows = wanted.depth_height, columns = wanted.depth_width;
      require(rows >= 1 && columns >= 1 && rows * columns <= ms_infer::kMaxSamples, MS_ERROR_CONFIG, "camera.depth is [",
              rows, ", ", columns, "]; expected a map [height, width]");
      move.depth.assign(wanted.depth, wanted.depth + rows * columns);
    }
    return from.camera(move);
  });
}

ms_status ms_tracks_static(const ms_tracks* tracks, const double* points, int32_t count, ms_tracks** all) {
  return changed(tracks, all, [&](const Tracks& from) { return from.with_static(places_of(points, count)); });
}

ms_status ms_tracks_merge(const ms_tracks* tracks, const ms_tracks* other, ms_tracks** all) {
  return changed(tracks, all, [&](const Tracks& from) { return from.merge(*given(other, "other")->tracks); });
}

ms_status ms_tracks_select(const ms_tracks* tracks, const int64_t* ids, int32_t count, ms_tracks** selected) {
  return changed(tracks, selected, [&](const Tracks& from) {
    require(count >= 0, MS_ERROR_CONFIG, "count is ", count, "; expected 0 or more ids");
    return ids ? from.select({ids, static_cast<std::size_t>(count)}) : from.select_visible();
  });
}

ms_status ms_tracks_resample(const ms_tracks* tracks, double fps, ms_tracks** resampled) {
  return changed(tracks, resampled, [&](const Tracks& from) { return from.resample(fps); });
}

ms_status ms_tracks_stretch(const ms_tracks* tracks, int32_t frames, ms_tracks** stretched) {
  return changed(tracks, stretched, [&](const Tracks& from) { return from.stretched(frames); });
}

ms_status ms_tracks_load(const char* path, int32_t width, int32_t height, double fps, ms_tracks** tracks) {
  return guarded([&] {
    *given(tracks, "tracks") = nullptr;
    const auto rate = fps == 0 ? std::nullopt : std::optional(fps);
    hand_out(tracks, ms_infer::load_tracks(given(path, "path"), picture_size(width, height), rate));
  });
}

ms_status ms_tracks_save(const ms_tracks* tracks, const char* path) {
  return guarded([&] { ms_infer::save_tracks(given(path, "path"), *given(tracks, "tracks")->tracks); });
}

ms_status ms_tracks_size(const ms_tracks* tracks, int32_t* count, int32_t* frames) {
  return guarded([&] {
    given(tracks, "tracks");
    *given(count, "count") = tracks->tracks->count();
    *given(frames, "frames") = tracks->tracks->frames;
  });
}

ms_status ms_tracks_read(const ms_tracks* tracks, float* points, uint8_t* visible, int64_t* ids) {
  return guarded([&] {
    const ms_infer::Tracks& from = *given(tracks, "tracks")->tracks;
    if (points) std::copy(from.points.begin(), from.points.end(), points);
    if (visible) std::copy(from.visible.begin(), from.visible.end(), visible);
    if (ids) std::copy(from.ids.begin(), from.ids.end(), ids);
  });
}

void ms_tracks_destroy(ms_tracks* tracks) { delete tracks; }

}  // extern "C"
