// The C interface: the library itself and its models.
#include "api/common.hpp"
#include "log.hpp"

using namespace ms_infer::api;

namespace ms_infer::api {

namespace {

// Words of fixed size: keeping them must not fail where memory is out.
thread_local char last_error[1024] = "";

}  // namespace

ms_status remember(ms_status status, const char* words) noexcept {
  std::strncpy(last_error, words, sizeof last_error - 1);
  return status;
}

std::vector<Point> places_of(const double* places, int32_t count) {
  require(count >= 0, MS_ERROR_CONFIG, "count is ", count, "; expected 0 or more places");
  if (count) given(places, "places");
  std::vector<Point> read;
  for (int32_t i = 0; i < count; ++i) read.push_back({places[2 * i], places[2 * i + 1]});
  return read;
}

std::shared_ptr<Model> open_model(const ms_model_params* params) {
  const ms_model_params from = read_struct(params, "params");
  given(from.bundle, "params.bundle");
  require(from.threads >= 0, MS_ERROR_CONFIG, "params.threads is ", from.threads, "; expected 0 or more");
  const Progress progress = [&](std::string_view what, double done) {
    if (from.progress && from.progress(from.user, std::string(what).c_str(), done))
      fail(MS_ERROR_CANCELLED, "opening the bundle was cancelled");
  };
  return Model::open(from.bundle, {text_or(from.engine, "auto"), text_or(from.precision, ""), from.threads, from.device},
                     progress);
}

}  // namespace ms_infer::api

extern "C" {

const char* ms_version(void) { return MS_INFER_VERSION; }

const char* ms_last_error(void) { return last_error; }

const char* ms_status_name(ms_status status) {
  switch (status) {
    case MS_OK: return "ok";
    case MS_ERROR_CONFIG: return "config";
    case MS_ERROR_BUNDLE: return "bundle";
    case MS_ERROR_ENGINE: return "engine";
    case MS_ERROR_MISSING: return "missing";
    case MS_ERROR_DEVICE: return "device";
    case MS_ERROR_STATE: return "state";
    case MS_ERROR_MEMORY: return "memory";
    case MS_ERROR_INTERNAL: return "internal";
    case MS_ERROR_CANCELLED: return "cancelled";
  }
  return "unknown";
}

void ms_set_log(void (*log)(void* user, int level, const char* words), void* user) { ms_infer::set_log(log, user); }

const char* ms_engine_name(int32_t number) {
  const auto& names = ms_infer::engine_names();
  const auto place = static_cast<std::size_t>(number);
  return number >= 0 && place < names.size() ? names[place].c_str() : nullptr;
}

ms_status ms_engine_check(const char* engine) {
  return guarded([&] { ms_infer::check_engine(given(engine, "engine")); });
}

ms_status ms_model_open(const ms_model_params* params, ms_model** model) {
  return guarded([&] {
    *given(model, "model") = nullptr;
    *model = new ms_model{open_model(params)};
  });
}

void ms_model_close(ms_model* model) { delete model; }

}  // extern "C"
