// Binary PPM pictures (P6, 255): `magick photo.jpg photo.ppm` or `ffmpeg -i photo.jpg photo.ppm` makes one.
#ifndef MS_INFER_EXAMPLES_PPM_HPP
#define MS_INFER_EXAMPLES_PPM_HPP

#include <cstdint>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  std::vector<std::uint8_t> rgb;
  int width = 0, height = 0;
};

inline Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int largest = 0;
  Picture picture;
  file >> magic >> picture.width >> picture.height >> largest;
  file.get();
  if (!file || magic != "P6" || largest != 255 || picture.width < 1 || picture.height < 1 ||
      picture.width > 16384 || picture.height > 16384)
    throw std::runtime_error(path + " is not a binary PPM (P6, 255)");
  picture.rgb.resize(std::size_t(picture.width) * std::size_t(picture.height) * 3);
  file.read(reinterpret_cast<char*>(picture.rgb.data()), std::streamsize(picture.rgb.size()));
  if (!file) throw std::runtime_error(path + " is cut off");
  return picture;
}

inline void write_ppm(const std::string& path, std::span<const std::uint8_t> rgb, int width, int height) {
  std::ofstream file(path, std::ios::binary);
  file << "P6 " << width << ' ' << height << " 255\n";
  file.write(reinterpret_cast<const char*>(rgb.data()), std::streamsize(rgb.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

#endif
