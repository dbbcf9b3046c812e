/* The smallest host program, in pure C: a live hand drags the ball of a picture to the right, for a few chunks. */
#include <stdio.h>
#include <stdlib.h>

#include "ms_infer/ms_infer.h"

enum { SIZE = 128 }; /* of the first frame */

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ms_last_error());
    return 1;
}

/* The first frame: a bright ball before a dark slope; any RGB picture will do. */
static ms_status begin(ms_stream *stream) {
    static uint8_t rgb[SIZE * SIZE * 3];
    ms_start_params start = {.struct_size = sizeof start, .image = rgb, .image_width = SIZE, .image_height = SIZE};
    int x, y, c;
    for (y = 0; y < SIZE; ++y)
        for (x = 0; x < SIZE; ++x) {
            const int across = x - SIZE * 45 / 100, down = y - SIZE * 55 / 100, far = across * across + down * down;
            for (c = 0; c < 3; ++c)
                rgb[3 * (y * SIZE + x) + c] = (uint8_t)(far < 150 ? 235 - 60 * c - far / 2 : 40 + 20 * c + y / 2);
        }
    return ms_stream_start(stream, &start);
}

/* What the hand does in half a second before each chunk, and the chunk that follows it. */
static ms_status next_chunk(ms_stream *stream, ms_hand *hand, int number, ms_chunk *chunk) {
    ms_stream_info info = {.struct_size = sizeof info};
    ms_tracks *tracks = NULL;
    const double now = 0.5 * number;
    ms_status status = ms_stream_get_info(stream, &info);
    if (number == 1) ms_hand_press(hand, 1, 0.45, 0.55, now - 0.5, 0.15, NULL, 0);
    if (number >= 1) ms_hand_move(hand, 1, 0.45 + 0.04 * number, 0.55, now);
    if (status == MS_OK) status = ms_hand_tracks(hand, now, info.next_rgb_frames, &tracks);
    if (status == MS_OK) status = ms_stream_set_tracks(stream, tracks, NULL);
    ms_tracks_destroy(tracks);
    return status == MS_OK ? ms_stream_step(stream, chunk) : status;
}

int main(int count, char **arguments) {
    ms_model_params params = {.struct_size = sizeof params, .bundle = arguments[1]};
    ms_chunk chunk = {.struct_size = sizeof chunk};
    ms_stream_info info = {.struct_size = sizeof info};
    ms_model *model = NULL;
    ms_stream *stream = NULL;
    ms_hand *hand = NULL;
    int i, chunks = count > 2 ? atoi(arguments[2]) : 3;
    FILE *raw = count > 3 ? fopen(arguments[3], "wb") : NULL;
    if (count < 2) {
        fprintf(stderr, "usage: embed BUNDLE [CHUNKS [FILE.rgb]]\n");
        return 2;
    }
    if (ms_model_open(&params, &model) != MS_OK) return failed("open");
    if (ms_stream_create(model, NULL, &stream) != MS_OK) return failed("create");
    if (ms_stream_get_info(stream, &info) != MS_OK) return failed("info");
    if (ms_hand_create(10, 10, (double)info.width / info.height, info.fps, info.max_tracks, &hand) != MS_OK)
        return failed("hand");
    if (begin(stream) != MS_OK) return failed("start");
    for (i = 0; i < chunks; ++i) {
        if (next_chunk(stream, hand, i, &chunk) != MS_OK) return failed("step");
        printf("chunk %d: %d frames of %d x %d in %.1f ms\n", (int)chunk.index, chunk.rgb_frames, chunk.width,
               chunk.height, chunk.chunk_ms);
        if (raw) fwrite(chunk.frames, chunk.frame_stride, (size_t)chunk.rgb_frames, raw);
    }
    if (raw) fclose(raw);
    ms_hand_destroy(hand);
    ms_stream_destroy(stream);
    ms_model_close(model);
    return 0;
}
