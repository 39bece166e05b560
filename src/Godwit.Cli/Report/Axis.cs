namespace Godwit.Cli;

/// <summary>Maps values to 0..1 and says where the lines of a grid go.</summary>
internal sealed class Axis
{
    private readonly double _low;
    private readonly double _high;
    private readonly bool _decades;

    private Axis(double low, double high, bool decades, IReadOnlyList<double> ticks)
    {
        _low = low;
        _high = high;
        _decades = decades;
        Ticks = ticks;
    }

    /// <summary>Values with a line, ascending.</summary>
    public IReadOnlyList<double> Ticks { get; }

    /// <summary>From 0 to at least <paramref name="most"/>, with about <paramref name="lines"/> lines at round numbers.</summary>
    public static Axis FromZero(double most, int lines)
    {
        double top = double.IsFinite(most) && most > 0 ? most : 1;
        double rough = top / lines;
        double power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        double step = (rough / power) switch { <= 1 => 1, <= 2 => 2, <= 5 => 5, _ => 10 } * power;
        int count = (int)Math.Ceiling((top / step) - 1e-9);
        return new Axis(0, count * step, decades: false, [.. Enumerable.Range(0, count + 1).Select(i => i * step)]);
    }

    /// <summary>The same from 0 to exactly <paramref name="most"/>: for time, which ends where the data ends.</summary>
    public static Axis UpTo(double most, int lines)
    {
        Axis round = FromZero(most, lines);
        double end = double.IsFinite(most) && most > 0 ? most : 1;
        return new Axis(0, end, decades: false, [.. round.Ticks.Where(tick => tick <= end)]);
    }

    /// <summary>Powers of ten around all of <paramref name="values"/> above 0.</summary>
    public static Axis Decades(IEnumerable<double> values)
    {
        double least = double.PositiveInfinity, most = 0;
        foreach (double value in values.Where(value => double.IsFinite(value) && value > 0))
            (least, most) = (Math.Min(least, value), Math.Max(most, value));
        if (most <= 0)
            (least, most) = (1, 10);
        int first = (int)Math.Floor(Math.Log10(least));
        int last = Math.Max((int)Math.Ceiling(Math.Log10(most)), first + 1);
        return new Axis(first, last, decades: true, [.. Enumerable.Range(first, last - first + 1).Select(i => Math.Pow(10, i))]);
    }

    /// <summary>0 at the lower end, 1 at the upper; what lies outside is drawn at the end.</summary>
    public double Place(double value)
    {
        if (_decades)
            value = value > 0 ? Math.Log10(value) : _low;
        return double.IsFinite(value) ? Math.Clamp((value - _low) / (_high - _low), 0, 1) : 1;
    }
}
