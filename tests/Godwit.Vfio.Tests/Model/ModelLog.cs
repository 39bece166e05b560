using System.Numerics;
using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>
/// The log of a <see cref="ModelDevice"/>, with the rules of the kernel (drivers/vfio/vfio_main.c, logging start) and the habits of its drivers as
/// <see cref="ModelDeviceTraits"/> says. One caller at a time.
/// </summary>
internal sealed class ModelLog(ModelDeviceTraits traits, Random random)
{
    private readonly Dictionary<ulong, ulong> _words = []; // bits of tracking pages, counted from _base
    private IovaPages[]? _armed;
    private ulong _base;
    private bool _broken;

    /// <summary>4 KiB pages in a tracking page.</summary>
    public ulong Granule { get; } = Math.Max(traits.LogPageSize, 4096) >> IovaPages.Shift;

    /// <summary>Tracking pages marked and not read yet.</summary>
    public int Marked => _words.Values.Sum(BitOperations.PopCount);

    public bool IsArmed => _armed is not null;

    public void Start(ReadOnlySpan<IovaPages> ranges)
    {
        if (_armed is not null || ranges.Length == 0)
            throw Refused("START", Errno.EINVAL);
        if (ranges.Length > traits.MaxRanges)
            throw Refused("START", Errno.E2BIG);
        ulong end = 0;
        foreach (IovaPages range in ranges)
        {
            if (range.Count == 0 || range.First < end)
                throw Refused("START", Errno.EINVAL);
            if (range.End >= IovaPages.SpacePages)
                throw Refused("START", Errno.EOVERFLOW);
            if (range.Count > traits.LongestRange)
                throw Refused("START", Errno.ENOTSUP);
            end = range.End;
        }

        IovaPages[] hardware = Combine(ranges.ToArray());
        ulong span = 0;
        foreach (IovaPages range in hardware)
            span += range.Count;
        if (traits.RoundsSpanUp)
            span = BitOperations.RoundUpToPowerOf2(span);
        if (span < traits.MinSpan || span > traits.MaxSpan)
            throw Refused("START", Errno.ENOTSUP);
        if (traits.StartFailsPercent > 0 && random.Next(100) < traits.StartFailsPercent)
            throw Refused("START", Errno.ENOMEM);
        _armed = hardware;
        _base = traits.WordsFromStart ? hardware[0].First / Granule : 0;
        _words.Clear();
        _broken = false;
    }

    public void Stop()
    {
        if (_armed is null)
            throw Refused("STOP", Errno.EINVAL);
        _armed = null;
        _words.Clear();
    }

    /// <summary>A DMA wrote a page.</summary>
    public void Write(ulong iovaPage)
    {
        if (_armed is null || _broken)
            return;
        foreach (IovaPages range in _armed)
        {
            if (iovaPage < range.First || iovaPage >= range.End)
                continue;
            ulong bit = iovaPage / Granule - _base;
            _words.TryGetValue(bit / 64, out ulong word);
            _words[bit / 64] = word | 1UL << (int)(bit % 64);
            return;
        }
    }

    public void Report(IovaPages range, Span<ulong> bitmap)
    {
        if (_armed is null)
            throw Refused("REPORT", Errno.EINVAL);
        if (_broken || (traits.ReportFailsPercent > 0 && random.Next(100) < traits.ReportFailsPercent))
        {
            _broken = traits.FailureSticks;
            _words.Clear(); // what was in it is gone
            throw Refused("REPORT", Errno.EIO);
        }

        // Nothing below the base was ever logged.
        ulong first = Math.Max(range.First / Granule, _base) - _base, end = Math.Max(range.End / Granule, _base) - _base;
        if (first == end)
            return;
        if ((end - 1) / 64 - first / 64 < (ulong)_words.Count)
        {
            for (ulong word = first / 64; word <= (end - 1) / 64; word++)
                Take(word, first, end, range.First / Granule, bitmap);
            return;
        }

        foreach (ulong word in _words.Keys) // removing while walking is allowed
        {
            if (word >= first / 64 && word <= (end - 1) / 64)
                Take(word, first, end, range.First / Granule, bitmap);
        }
    }

    private void Take(ulong word, ulong first, ulong end, ulong origin, Span<ulong> bitmap)
    {
        if (!_words.TryGetValue(word, out ulong bits))
            return;
        ulong asked = ulong.MaxValue;
        if (word * 64 < first)
            asked &= ulong.MaxValue << (int)(first - word * 64);
        if (word * 64 + 64 > end)
            asked &= ulong.MaxValue >> (int)(word * 64 + 64 - end);
        for (ulong rest = bits & asked; rest != 0; rest &= rest - 1)
        {
            ulong at = _base + word * 64 + (ulong)BitOperations.TrailingZeroCount(rest) - origin;
            bitmap[(int)(at / 64)] |= 1UL << (int)(at % 64);
        }

        if (traits.ClearsWholeWords || (bits & ~asked) == 0)
            _words.Remove(word);
        else
            _words[word] = bits & ~asked;
    }

    private IovaPages[] Combine(IovaPages[] ranges)
    {
        int most = traits.OneRegion ? 1 : traits.CombinesTo;
        while (ranges.Length > most)
        {
            int smallest = 1;
            for (int i = 2; i < ranges.Length; i++)
            {
                if (ranges[i].First - ranges[i - 1].End < ranges[smallest].First - ranges[smallest - 1].End)
                    smallest = i;
            }

            ranges = [.. ranges[..(smallest - 1)], IovaPages.Between(ranges[smallest - 1].First, ranges[smallest].End), .. ranges[(smallest + 1)..]];
        }

        return ranges;
    }

    private static DeviceRefusedException Refused(string what, Errno errno) => new($"DMA_LOGGING_{what}", errno);
}
