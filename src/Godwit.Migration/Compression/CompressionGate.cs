namespace Godwit.Migration;

/// <summary>
/// Decides piece by piece whether to compress: only while it makes the link's time shorter by more than it takes. After a piece that did not pay
/// some are sent as they are before it is tried again, twice as many each time. Pure: what was measured is told to it.
/// </summary>
internal sealed class CompressionGate
{
    /// <summary>Most pieces sent as they are before the next try: 64 MiB of memory with 256 KiB a piece.</summary>
    internal const int LongestRest = 256;

    private int _rest;
    private int _restNext = 1;

    /// <summary>Whether to try the next piece; counts it.</summary>
    internal bool Try()
    {
        if (_rest == 0)
            return true;
        _rest--;
        return false;
    }

    /// <summary>Records a try.</summary>
    /// <param name="length">Bytes before.</param>
    /// <param name="compressed">Bytes after; 0 when it did not get shorter.</param>
    /// <param name="time">What it took.</param>
    /// <param name="linkBytesPerSecond">What the link takes.</param>
    /// <returns>Whether it paid.</returns>
    internal bool Record(int length, int compressed, TimeSpan time, double linkBytesPerSecond)
    {
        double saved = compressed == 0 ? 0 : (length - compressed) / Math.Max(1, linkBytesPerSecond);
        if (saved > time.TotalSeconds)
        {
            _restNext = 1;
            return true;
        }

        _rest = _restNext;
        _restNext = Math.Min(2 * _restNext, LongestRest);
        return false;
    }
}
