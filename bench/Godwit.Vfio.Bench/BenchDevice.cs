using Godwit.Memory;

namespace Godwit.Vfio.Bench;

/// <summary>
/// A device whose log is a sorted list of the 64-page words that have bits set, so that a report costs a search and a copy of those words and nothing in
/// proportion to what is asked: what is measured is the host's side. All ways of asking use the same one.
/// </summary>
internal sealed class BenchDevice : IDmaMapper, IDmaLog
{
    private ulong[] _pages = [];
    private ulong[] _numbers = []; // IOVA page / 64 of each word
    private ulong[] _written = [];
    private ulong[] _words = []; // what is left of _written

    public int MaxMappings => int.MaxValue;

    public int MaxReportBytes => 1 << 21;

    public long Calls { get; private set; }

    /// <summary>Bytes of bitmaps that were asked for.</summary>
    public long BitmapBytes { get; private set; }

    /// <summary>The pages that are dirty from now on, ascending.</summary>
    public void Write(ulong[] pages)
    {
        if (!ReferenceEquals(pages, _pages))
            Gather(pages);
        _written.CopyTo(_words, 0);
        (Calls, BitmapBytes) = (0, 0);
    }

    public bool SupportsDmaLogging() => true;

    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges) => 4096;

    public void StopDmaLogging()
    {
    }

    /// <summary>Where the ranges that are asked about are noted, to be asked about again; null to note none.</summary>
    public List<IovaPages>? Asked { get; set; }

    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap)
    {
        Asked?.Add(range);
        Calls++;
        BitmapBytes += (long)(range.Count + 63) / 64 * sizeof(ulong);
        int i = Array.BinarySearch(_numbers, range.First / 64);
        int shift = (int)(range.First % 64);
        for (i = i < 0 ? ~i : i; i < _numbers.Length && _numbers[i] * 64 < range.End; i++)
        {
            ulong first = _numbers[i] * 64;
            if (shift == 0 && range.End - first >= 64)
            {
                bitmap[(int)((first - range.First) / 64)] |= _words[i];
                _words[i] = 0;
                continue;
            }

            ulong asked = ulong.MaxValue;
            if (first < range.First)
                asked <<= shift;
            if (range.End - first < 64)
                asked &= (1UL << (int)(range.End - first)) - 1;
            ulong bits = _words[i] & asked;
            if (bits == 0)
                continue;
            _words[i] &= ~asked;
            if (first < range.First)
            {
                bitmap[0] |= bits >> shift;
                continue;
            }

            int at = (int)((first - range.First) / 64);
            bitmap[at] |= bits << (64 - shift) % 64;
            if (shift == 0)
                continue;
            ulong high = bits >> shift;
            if (high != 0)
                bitmap[at + 1] |= high;
        }
    }

    private void Gather(ulong[] pages)
    {
        var numbers = new List<ulong>();
        var words = new List<ulong>();
        foreach (ulong page in pages)
        {
            if (numbers.Count == 0 || numbers[^1] != page / 64)
            {
                numbers.Add(page / 64);
                words.Add(0);
            }

            words[^1] |= 1UL << (int)(page % 64);
        }

        (_pages, _numbers, _written, _words) = (pages, [.. numbers], [.. words], new ulong[words.Count]);
    }

    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
    {
    }

    public void QueueUnmap(IovaPages iova)
    {
    }

    public void Flush(List<DmaFailure> failures) => ArgumentNullException.ThrowIfNull(failures);
}
