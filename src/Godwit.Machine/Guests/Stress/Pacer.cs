namespace Godwit.Machine.Guests.Stress;

/// <summary>Spreads work over guest time: so many units a second, what could not be done in time is forgiven.</summary>
internal struct Pacer
{
    private const ulong Second = 1_000_000_000;

    /// <summary>Most that is made up for after a delay.</summary>
    private const ulong LongestBacklog = Second / 20;

    /// <summary>Guest time at which the next unit is due.</summary>
    public ulong NextAt;

    /// <summary>How many units are due now, at most <paramref name="most"/>; they count as done.</summary>
    public uint Take(ulong now, ulong perSecond, uint most)
    {
        if (perSecond == 0)
            return 0;
        if (NextAt + LongestBacklog < now)
            NextAt = now - LongestBacklog;
        uint units = 0;
        for (; units < most && NextAt <= now; units++)
            NextAt += Math.Max(Second / perSecond, 1);
        return units;
    }

    /// <summary>When to look again; never without a rate.</summary>
    public readonly ulong Due(ulong perSecond) => perSecond == 0 ? ulong.MaxValue : NextAt;
}
