#include "tracks/files.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "files/json.hpp"
#include "files/npy.hpp"
#include "files/zip.hpp"

namespace ms_infer {

namespace {

constexpr std::size_t kMaxBytes = std::size_t(kMaxSamples) * 32;
constexpr double kFps = 16.0, kRelativeReach = 2.0;
constexpr const char* kConvert = "; Python's Tracks.load(...).save(\"tracks.npz\") brings it into our form";

// Tracks as a file gives them: shapes are right, numbers are not checked yet.
struct TracksFile {
  std::vector<double> points;  // [count, frames, 2]
  std::vector<std::uint8_t> visible;
  std::vector<std::int64_t> ids;
  std::int64_t count = 0, frames = 1;
  std::optional<std::optional<PictureSize>> size;  // not set: the file does not say its units
  std::optional<double> fps;
};

PictureSize size_of(std::span<const std::int64_t> values) {
  require(values.size() == 2 && values[0] >= 1 && values[1] >= 1 && values[0] < 1 << 30 && values[1] < 1 << 30,
          MS_ERROR_CONFIG, "size must be (height, width) in whole pixels");
  return {static_cast<int>(values[0]), static_cast<int>(values[1])};
}

Tracks tracks_of(TracksFile read, std::optional<PictureSize> given, std::optional<double> fps) {
  std::optional<PictureSize> size = read.size.value_or(given);
  if (!read.size) {
    double largest = 0;
    for (const double value : read.points) largest = std::max(largest, std::fabs(value));
    require(largest <= kRelativeReach || given, MS_ERROR_CONFIG, "coordinates reach ", largest, ", so they are pixels, but "
            "the file does not say of which picture; load it with the width and height of that picture");
    if (largest <= kRelativeReach && given)
      for (std::size_t i = 0; i < read.points.size(); ++i) read.points[i] *= i % 2 ? given->height : given->width;
  }
  std::vector<float> points(read.points.size());
  for (std::size_t i = 0; i < points.size(); ++i) points[i] = static_cast<float>(read.points[i]);
  return Tracks::make(std::move(points), std::move(read.visible), std::move(read.ids), static_cast<int>(read.frames), size,
                      read.fps.value_or(fps.value_or(kFps)));
}

void check_shape(std::int64_t count, std::int64_t frames) {
  require(frames >= 1, MS_ERROR_CONFIG, "points must have 1 or more RGB frames");
  check_samples(count, double(frames));
}

std::vector<std::int64_t> counted(std::int64_t count) {
  std::vector<std::int64_t> ids;
  for (std::int64_t id = 0; id < count; ++id) ids.push_back(id);
  return ids;
}

std::uint8_t flag(double value) {
  require(value == 0 || value == 1, MS_ERROR_CONFIG, "visible must hold only 0 and 1, not ", value);
  return value == 1;
}

// ---- .npz

TracksFile read_npz(const Bytes& file) {
  TracksFile read;
  const auto entries = read_zip(file, kMaxBytes);
  std::map<std::string, NpyArray> arrays;
  for (const auto& [name, content] : entries) {
    const std::string plain = name.ends_with(".npy") ? name.substr(0, name.size() - 4) : name;
    require(plain == "points" || plain == "visible" || plain == "ids" || plain == "size" || plain == "fps",
            MS_ERROR_CONFIG, "the file holds '", plain, "', which means nothing here", kConvert);
    arrays[plain] = read_npy(content);
  }
  require(arrays.contains("points"), MS_ERROR_CONFIG, "expected the array points [tracks, RGB frames, 2]", kConvert);
  const NpyArray& points = arrays["points"];
  require(points.shape.size() == 3 && points.shape[2] == 2, MS_ERROR_CONFIG,
          "points must be [tracks, RGB frames, 2], found ", shape_text(points.shape));
  read.count = points.shape[0], read.frames = points.shape[1];
  check_shape(read.count, read.frames);
  read.points = points.numbers();
  read.visible.assign(static_cast<std::size_t>(read.count * read.frames), 1);
  if (arrays.contains("visible")) {
    require(arrays["visible"].shape == Shape({read.count, read.frames}), MS_ERROR_CONFIG, "visible ",
            shape_text(arrays["visible"].shape), " does not fit points ", shape_text(points.shape));
    const auto values = arrays["visible"].numbers();
    std::transform(values.begin(), values.end(), read.visible.begin(), flag);
  }
  read.ids = arrays.contains("ids") ? arrays["ids"].integers() : counted(read.count);
  if (arrays.contains("size"))
    read.size = arrays["size"].count() ? std::optional(size_of(arrays["size"].integers())) : std::nullopt;
  if (arrays.contains("fps")) {
    const auto values = arrays["fps"].numbers();
    require(values.size() == 1, MS_ERROR_CONFIG, "fps must be one number, found ", values.size());
    read.fps = values[0];
  }
  return read;
}

template <class Value>
Bytes array_bytes(const char* kind, const Shape& shape, std::span<const Value> values) {
  return npy_bytes(kind, shape, {reinterpret_cast<const unsigned char*>(values.data()), values.size_bytes()});
}

Bytes write_npz(const Tracks& tracks) {
  std::vector<std::int64_t> size;
  if (tracks.size) size = {tracks.size->height, tracks.size->width};
  const Shape grid{tracks.count(), tracks.frames};
  std::map<std::string, Bytes> entries;
  entries["points.npy"] = array_bytes<float>("<f4", {grid[0], grid[1], 2}, tracks.points);
  entries["visible.npy"] = array_bytes<std::uint8_t>("|b1", grid, tracks.visible);
  entries["ids.npy"] = array_bytes<std::int64_t>("<i8", {grid[0]}, tracks.ids);
  entries["size.npy"] = array_bytes<std::int64_t>("<i8", {std::int64_t(size.size())}, size);
  entries["fps.npy"] = array_bytes<double>("<f8", {}, std::span(&tracks.fps, 1));
  return zip_bytes(entries);
}

// ---- .json

// The last is the value of a member that may be missing or null.
const Json* member(const Json& object, const char* name) {
  const Json* found = object.find(name);
  return found && !found->is_null() ? found : nullptr;
}

void refuse_unknown(const Json& object, std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.object())
    require(std::find(known.begin(), known.end(), name) != known.end(), MS_ERROR_CONFIG, "'", name,
            "' means nothing here", kConvert);
}

void read_row(TracksFile& read, const Json& row, std::int64_t number) {
  refuse_unknown(row, {"id", "points", "visible"});
  const auto& places = row.at("points").array();
  const auto frames = static_cast<std::int64_t>(places.size());
  if (number == 0) read.frames = frames;
  require(frames == read.frames, MS_ERROR_CONFIG, "points of track ", number, " has length ", frames, ", of track 0 ",
          read.frames, "; all must be equal");
  check_shape(number + 1, frames);
  for (const auto& place : places) {
    require(place.array().size() == 2, MS_ERROR_CONFIG, "every position is a pair [x, y]");
    for (const auto& value : place.array()) read.points.push_back(value.number());
  }
  const Json* id = row.find("id");
  read.ids.push_back(id ? id->integer() : number);
  const Json* visible = row.find("visible");
  require(!visible || static_cast<std::int64_t>(visible->array().size()) == frames, MS_ERROR_CONFIG, "visible of track ",
          number, " does not fit its points");
  for (std::int64_t k = 0; k < frames; ++k)
    read.visible.push_back(visible ? flag(visible->array()[static_cast<std::size_t>(k)].number()) : std::uint8_t{1});
}

TracksFile read_json(const Bytes& file) {
  TracksFile read;
  const Json json = Json::parse({reinterpret_cast<const char*>(file.data()), file.size()});
  refuse_unknown(json, {"format", "version", "fps", "size", "tracks"});
  if (const Json* fps = json.find("fps")) read.fps = fps->number();
  if (json.find("size")) {
    read.size = std::nullopt;
    if (const Json* size = member(json, "size")) {
      std::vector<std::int64_t> values;
      for (const auto& value : size->array()) values.push_back(value.integer());
      read.size = size_of(values);
    }
  }
  for (const auto& row : json.at("tracks").array()) read_row(read, row, read.count++);
  return read;
}

// Shortest digits that read back as the same float32, as Python writes them.
void put(std::string& out, float value) {
  char digits[64];
  const double exact = [&] {
    char text[64];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    double read = 0;
    std::from_chars(text, end, read);
    return read;
  }();
  out.append(digits, std::to_chars(digits, digits + sizeof digits, exact).ptr);
}

Bytes write_json(const Tracks& tracks) {
  std::string out = "{\"format\": \"ms-infer tracks\", \"version\": 1, \"fps\": ";
  char digits[64];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, tracks.fps).ptr);
  out += ", \"size\": ";
  out += tracks.size ? "[" + std::to_string(tracks.size->height) + ", " + std::to_string(tracks.size->width) + "]" : "null";
  out += ", \"tracks\": [";
  for (int track = 0; track < tracks.count(); ++track) {
    out += (track ? ", " : "") + std::string("{\"id\": ") + std::to_string(tracks.ids[std::size_t(track)]) + ", \"points\": [";
    for (int k = 0; k < tracks.frames; ++k) {
      out += k ? ", [" : "[";
      put(out, tracks.point(track, k)[0]);
      out += ", ";
      put(out, tracks.point(track, k)[1]);
      out += "]";
    }
    out += "], \"visible\": [";
    for (int k = 0; k < tracks.frames; ++k) out += (k ? ", " : "") + std::to_string(int{tracks.seen(track, k)});
    out += "]}";
  }
  out += "]}";
  return {out.begin(), out.end()};
}

std::string ending(const std::filesystem::path& path) {
  std::string suffix = path.extension().string();
  for (char& c : suffix) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  require(suffix == ".npz" || suffix == ".json", MS_ERROR_CONFIG, path.filename().string(),
          ": tracks are read and written as .npz and .json; Python's Tracks.load and save convert others");
  return suffix;
}

}  // namespace

Tracks load_tracks(const std::filesystem::path& path, std::optional<PictureSize> size, std::optional<double> fps) {
  const std::string suffix = ending(path);
  const Bytes file = read_file(path, kMaxBytes, MS_ERROR_CONFIG);
  try {
    return tracks_of(suffix == ".npz" ? read_npz(file) : read_json(file), size, fps);
  } catch (const Error& error) {
    fail(MS_ERROR_CONFIG, path.filename().string(), ": ", error.what());
  }
}

void save_tracks(const std::filesystem::path& path, const Tracks& tracks) {
  const Bytes file = ending(path) == ".npz" ? write_npz(tracks) : write_json(tracks);
  write_file(path, {{reinterpret_cast<const char*>(file.data()), file.size()}});
}

}  // namespace ms_infer
