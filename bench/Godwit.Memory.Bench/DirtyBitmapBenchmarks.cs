using System.Runtime.InteropServices;
using BenchmarkDotNet.Attributes;

namespace Godwit.Memory.Bench;

/// <summary>
/// Bitmap operations over a whole bitmap, beside a plain copy of as many bytes in the same run. Operations that change the bitmap come in
/// pairs that restore it, so each iteration starts alike. "Sparse" is one set bit in 64 words (one dirty page in 16 MiB of RAM).
/// </summary>
public unsafe class DirtyBitmapBenchmarks
{
    private DirtyBitmap _bitmap = null!;
    private DirtyBitmap _sparse = null!;
    private DirtyBitmap _full = null!;
    private ulong[] _words = [];
    private ulong[] _sparseBits = [];
    private ulong[] _denseBits = [];
    private byte* _source;
    private byte* _target;

    /// <summary>Bitmap sizes for 1 GiB of RAM (in the first cache) and 64 GiB (beyond the second).</summary>
    [Params(32 << 10, 2 << 20)]
    public int Bytes { get; set; }

    private ulong Pages => (ulong)Bytes * 8;

    [GlobalSetup]
    public void Setup()
    {
        _bitmap = new DirtyBitmap(Pages);
        _full = new DirtyBitmap(Pages);
        _full.SetRange(0, Pages);
        _words = new ulong[Bytes / 8];
        _sparseBits = new ulong[Bytes / 8];
        _denseBits = new ulong[Bytes / 8];
        for (int i = 0; i < _sparseBits.Length; i++)
        {
            _sparseBits[i] = i % 64 == 17 ? 1UL << (i / 64 % 64) : 0;
            _denseBits[i] = 0x5555_5555_5555_5555;
        }

        _sparse = new DirtyBitmap(Pages);
        _sparse.Or(0, _sparseBits, Pages);
        // SAFETY: freed in Cleanup; copies are of exactly this size.
        _source = (byte*)NativeMemory.AlignedAlloc((nuint)Bytes, 64);
        _target = (byte*)NativeMemory.AlignedAlloc((nuint)Bytes, 64);
        NativeMemory.Fill(_source, (nuint)Bytes, 1);
        NativeMemory.Fill(_target, (nuint)Bytes, 2);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _bitmap.Dispose();
        _full.Dispose();
        _sparse.Dispose();
        NativeMemory.AlignedFree(_source);
        NativeMemory.AlignedFree(_target);
    }

    [Benchmark(Baseline = true)]
    public void Memcpy() => Buffer.MemoryCopy(_source, _target, Bytes, Bytes);

    [Benchmark]
    public ulong SetRange_clear_then_Drain_dense()
    {
        _bitmap.SetRange(0, Pages);
        return _bitmap.Drain(0, _words);
    }

    [Benchmark]
    public ulong SetRange_already_set() => _full.SetRange(0, Pages);

    [Benchmark]
    public ulong Or_dense_then_Drain_dense()
    {
        _bitmap.Or(0, _denseBits, Pages);
        return _bitmap.Drain(0, _words);
    }

    [Benchmark]
    public ulong Or_sparse_then_Drain_sparse()
    {
        _bitmap.Or(0, _sparseBits, Pages);
        return _bitmap.Drain(0, _words);
    }

    [Benchmark]
    public ulong Or_sparse_already_set() => _sparse.Or(0, _sparseBits, Pages);

    [Benchmark]
    public ulong Or_sparse_unaligned_already_set() => _full.Or(13, _sparseBits, Pages - 13);

    [Benchmark]
    public ulong Drain_clear() => _bitmap.Drain(0, _words);

    [Benchmark]
    public ulong Count_sparse() => _sparse.Count();

    [Benchmark]
    public ulong Count_dense() => _full.Count();
}
