// The parameters of every test kernel, mirrored by hand in src/testing.rs.
#pragma once
struct TestParams {
    uint64_t buffers[4]; // addresses of the launch's operands, in their order
    int32_t values[8];
};
static_assert(sizeof(TestParams) == 64, "as in src/testing.rs");

template <typename T> WC_DEVICE T* buffer(const TestParams& p, int32_t index) { return (T*)p.buffers[index]; }
