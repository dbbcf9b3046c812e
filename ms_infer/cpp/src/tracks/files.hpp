// Files of tracks: .npz and .json as Python's Tracks.save writes them.
#pragma once

#include <filesystem>

#include "tracks/tracks.hpp"

namespace ms_infer {

// `size` and `fps` speak for what the file does not say: without a size coordinates up to 2 are shares of the picture and
// others its pixels; without a rate it is 16. MS_ERROR_CONFIG names the file and what is wrong.
Tracks load_tracks(const std::filesystem::path& path, std::optional<PictureSize> size, std::optional<double> fps);
void save_tracks(const std::filesystem::path& path, const Tracks& tracks);

}  // namespace ms_infer
