using Godwit.Memory;

namespace Godwit.Vfio.Bench;

/// <summary>
/// A device whose log is a sorted list of dirty pages, so that a report costs a search and its set bits and nothing in proportion to what is asked: what
/// is measured is the host's side. All ways of asking use the same one.
/// </summary>
internal sealed class BenchDevice : IDmaMapper, IDmaLog
{
    private ulong[] _dirty = [];
    private ulong[] _taken = [];

    public int MaxMappings => int.MaxValue;

    public int MaxReportBytes => 1 << 21;

    public long Calls { get; private set; }

    /// <summary>Bytes of bitmaps that were asked for.</summary>
    public long BitmapBytes { get; private set; }

    /// <summary>The pages that are dirty from now on, ascending.</summary>
    public void Write(ulong[] pages)
    {
        _dirty = pages;
        if (_taken.Length != (pages.Length + 63) / 64)
            _taken = new ulong[(pages.Length + 63) / 64];
        Array.Clear(_taken);
        (Calls, BitmapBytes) = (0, 0);
    }

    public bool SupportsDmaLogging() => true;

    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges) => 4096;

    public void StopDmaLogging()
    {
    }

    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap)
    {
        Calls++;
        BitmapBytes += (long)(range.Count + 63) / 64 * sizeof(ulong);
        int i = Array.BinarySearch(_dirty, range.First);
        for (i = i < 0 ? ~i : i; i < _dirty.Length && _dirty[i] < range.End; i++)
        {
            ref ulong taken = ref _taken[i / 64];
            if ((taken >> (i % 64) & 1) != 0)
                continue;
            taken |= 1UL << (i % 64);
            ulong bit = _dirty[i] - range.First;
            bitmap[(int)(bit / 64)] |= 1UL << (int)(bit % 64);
        }
    }

    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
    {
    }

    public void QueueUnmap(IovaPages iova)
    {
    }

    public void Flush(List<DmaFailure> failures) => ArgumentNullException.ThrowIfNull(failures);
}
