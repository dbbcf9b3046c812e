/* ms_infer: stream motion-controlled video from a bundle, without Python. Plain C; see ms_infer.hpp for C++.
 *
 * Use
 *     ms_stream_params params;
 *     ms_stream_default_params(&params, sizeof params);
 *     params.bundle = "bundles/demo";
 *     ms_stream *stream = NULL;
 *     if (ms_stream_create(&params, &stream) != MS_OK) { puts(ms_last_error()); return 1; }
 *     ms_chunk chunk = {sizeof chunk};
 *     while (ms_stream_step(stream, &chunk) == MS_OK) show(chunk.frames, chunk.rgb_frames);
 *     ms_stream_destroy(stream);
 *
 * Ownership
 *     Whatever a function named *_create, *_save, *_grid, *_drag, *_path or *_resample gives is the caller's: free it with the
 *     matching *_destroy (NULL is fine). Inputs are copied before a function returns. `chunk.frames` belongs to the
 *     stream and is valid until the next step, start, restore, close or destroy.
 *
 * Errors and threads
 *     Every function that can fail returns a status; ms_last_error() has the words, per thread, until the next call
 *     that fails in that thread. A failed step changes nothing: it may be called again. Any thread may set tracks and
 *     prompts, pause and resume while another thread steps or starts the stream; a second thread that steps, starts,
 *     saves or restores meanwhile gets MS_ERROR_STATE. Control ids only grow, over starts and restores too. Close waits
 *     for the chunk that is being made; destroy comes last. Streams are independent. Nothing is ever thrown across this header.
 */
#ifndef MS_INFER_H
#define MS_INFER_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  if defined(MS_INFER_BUILD)
#    define MS_API __declspec(dllexport)
#  else
#    define MS_API __declspec(dllimport)
#  endif
#else
#  define MS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ms_status {
    MS_OK = 0,
    MS_ERROR_CONFIG = 1,   /* a setting or an input that cannot work, also NULL and a wrong struct_size */
    MS_ERROR_BUNDLE = 2,   /* a bundle that is incomplete, changed after the export, or too new */
    MS_ERROR_ENGINE = 3,   /* the bundle's engine was built for another device, version or precision */
    MS_ERROR_MISSING = 4,  /* this library was built without the engine that is asked for */
    MS_ERROR_DEVICE = 5,   /* the device is absent or failed */
    MS_ERROR_STATE = 6,    /* not now: the stream is closed, paused, not started, or another thread uses it */
    MS_ERROR_MEMORY = 7,   /* out of memory */
    MS_ERROR_INTERNAL = 8  /* a defect of this library or of an engine's; please report it */
} ms_status;

typedef struct ms_stream ms_stream; /* a video that goes on for ever */
typedef struct ms_state ms_state;   /* a stream between two chunks */
typedef struct ms_tracks ms_tracks; /* immutable points over time: the motion control */

/* Version of the library, "0.1.0". */
MS_API const char *ms_version(void);
/* Name of a status: "ok", "config", "bundle", ... */
MS_API const char *ms_status_name(ms_status status);
/* Words for the newest error of this thread, "" before the first. */
MS_API const char *ms_last_error(void);

/* ---- stream */

typedef struct ms_stream_params {
    size_t struct_size;    /* set by ms_stream_default_params */
    const char *bundle;    /* folder that ms-export made; required */
    const char *engine;    /* "auto" (default), "openvino" or "tensorrt"; a named one never falls back */
    const char *precision; /* NULL: the best of the device; "fp32" or "bf16" with OpenVINO */
    int32_t threads;       /* CPU threads, 0: all that this process may use */
    int32_t device;        /* number of the CUDA device */
} ms_stream_params;

typedef struct ms_stream_info {
    size_t struct_size;
    const char *model;  /* lives as long as the stream */
    const char *engine; /* "openvino fp32"; lives as long as the stream */
    double fps;         /* playback rate of the RGB frames */
    int32_t width, height;
    int32_t first_rgb_frames, rgb_frames; /* RGB frames of the first chunk, and of every later one */
    int32_t max_tracks;                   /* 0: the model has no track head */
    int32_t text_tokens, text_dim;        /* shape of a prompt's embedding */
} ms_stream_info;

/* What the video shall show: words, or a ready embedding from memory or from a file. The first that is set counts. */
typedef struct ms_prompt {
    size_t struct_size;
    const float *embedding; /* [tokens, text_dim], tokens <= text_tokens */
    int32_t embedding_tokens;
    int32_t recache;           /* not 0: also re-encode the context, so that it lets go of the old prompt at once */
    int32_t replace_sink;      /* not 0: and let the oldest re-encoded latent frames become the new sink */
    const char *embedding_file; /* .npy of floats [tokens, text_dim] */
    const char *text;           /* UTF-8; needs a model with a word-level text encoder, as the demo has */
} ms_prompt;

typedef struct ms_start_params {
    size_t struct_size;
    const uint8_t *image; /* RGB [image_height, image_width, 3] or NULL; cropped and resized where it does not fit */
    int32_t image_width, image_height;
    const ms_prompt *prompt; /* NULL: no words */
    const ms_tracks *tracks; /* NULL: no tracks */
    uint64_t seed;           /* equal seeds and controls give equal frames */
} ms_start_params;

typedef struct ms_chunk {
    size_t struct_size;
    int64_t index;           /* counts chunks from 0 */
    int64_t first_rgb_frame; /* place of the first frame in the stream */
    int64_t control_id;      /* newest control that the chunk was made with */
    const uint8_t *frames;   /* RGB [rgb_frames, height, width, 3], rows without gaps */
    int32_t rgb_frames, height, width;
    float begin_ms, denoise_ms, decode_ms, write_cache_ms; /* by the clock of the device that ran them */
    float chunk_ms;                                        /* the whole step by the host's clock */
} ms_chunk;

/* Fill a struct with its defaults; `size` is the sizeof that the caller was compiled with. */
MS_API ms_status ms_stream_default_params(ms_stream_params *params, size_t size);
MS_API ms_status ms_start_default_params(ms_start_params *params, size_t size);
MS_API ms_status ms_prompt_default(ms_prompt *prompt, size_t size);

/* Open a bundle: check it, load and compile its stages. */
MS_API ms_status ms_stream_create(const ms_stream_params *params, ms_stream **stream);
/* Free the engine; the handle stays valid and refuses every later call. Closing twice is fine. */
MS_API ms_status ms_stream_close(ms_stream *stream);
MS_API void ms_stream_destroy(ms_stream *stream);
MS_API ms_status ms_stream_get_info(const ms_stream *stream, ms_stream_info *info);

/* Begin a new video; NULL params begin one from nothing. The first step does so by itself. */
MS_API ms_status ms_stream_start(ms_stream *stream, const ms_start_params *params);
/* Make the next chunk with the newest control. */
MS_API ms_status ms_stream_step(ms_stream *stream, ms_chunk *chunk);
/* Follow these tracks from the next chunk on (frame 0 of the tracks is its first frame); NULL releases all points. */
MS_API ms_status ms_stream_set_tracks(ms_stream *stream, const ms_tracks *tracks, int64_t *control_id);
/* Change the prompt from the next chunk on. `control_id` may be NULL, here and above. */
MS_API ms_status ms_stream_set_prompt(ms_stream *stream, const ms_prompt *prompt, int64_t *control_id);
/* While paused a step is MS_ERROR_STATE; controls may still be set. */
MS_API ms_status ms_stream_pause(ms_stream *stream);
MS_API ms_status ms_stream_resume(ms_stream *stream);
/* Start over with the same image, prompt, tracks and seed; after a restore with those of the snapshot. */
MS_API ms_status ms_stream_reset(ms_stream *stream);
/* Everything the next chunk depends on, controls that no chunk has played yet included. Load it often, and into other
 * streams of the same bundle, engine and precision (a fork): the next frames are equal bit for bit. A state that is
 * refused leaves the stream as it was. */
MS_API ms_status ms_stream_save(ms_stream *stream, ms_state **state);
MS_API ms_status ms_stream_load(ms_stream *stream, const ms_state *state);
MS_API void ms_state_destroy(ms_state *state);
/* The same in a file, in the format of Python's Stream.snapshot. */
MS_API ms_status ms_stream_snapshot(ms_stream *stream, const char *path);
MS_API ms_status ms_stream_restore(ms_stream *stream, const char *path);

/* ---- tracks: x to the right, y down; in pixels of a width x height picture, or in 0..1 when both are 0 */

/* points [count, frames, 2] x and y; visible [count, frames] 0 or 1, NULL: all; ids [count] unique and >= 0, NULL: 0... */
MS_API ms_status ms_tracks_create(const float *points, const uint8_t *visible, const int64_t *ids, int32_t count,
                                  int32_t frames, int32_t width, int32_t height, double fps, ms_tracks **tracks);
/* rows x columns points at the centres of equal cells, row by row, standing still. */
MS_API ms_status ms_tracks_grid(int32_t rows, int32_t columns, int32_t width, int32_t height, double fps,
                                ms_tracks **tracks);
/* Move the visible point nearest to (x, y) by (to_x - x, to_y - y), eased, beginning `start` seconds in; with a
 * radius > 0 every visible point within it moves, with cosine falloff. The motion is held afterwards. */
MS_API ms_status ms_tracks_drag(const ms_tracks *tracks, double x, double y, double to_x, double to_y, double seconds,
                                double radius, double start, ms_tracks **moved);
/* The same along corners [count, 2], the first of which is the point; smooth not 0: eased at both ends. */
MS_API ms_status ms_tracks_path(const ms_tracks *tracks, const double *corners, int32_t count, double seconds,
                                double radius, double start, int32_t smooth, ms_tracks **moved);
/* Another frame rate, nothing of the motion lost. */
MS_API ms_status ms_tracks_resample(const ms_tracks *tracks, double fps, ms_tracks **resampled);
/* Number of tracks and of their RGB frames. */
MS_API ms_status ms_tracks_size(const ms_tracks *tracks, int32_t *count, int32_t *frames);
/* Copy out; each of the arrays may be NULL, shapes as in ms_tracks_create. */
MS_API ms_status ms_tracks_read(const ms_tracks *tracks, float *points, uint8_t *visible, int64_t *ids);
MS_API void ms_tracks_destroy(ms_tracks *tracks);

#ifdef __cplusplus
}
#endif

#endif
