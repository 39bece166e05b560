namespace Godwit.Vfio.Tests;

/// <summary>
/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators): a new stream for each step costs two multiplications, so that
/// steps can be left out of a life without changing the others.
/// </summary>
internal sealed class OracleRandom : Random
{
    private ulong _state;

    /// <summary>Begins the stream of one step of one life.</summary>
    public void Reseed(int seed, int step) => _state = Mix(((ulong)(uint)seed << 32 | (uint)step) + 0x9E37_79B9_7F4A_7C15);

    public override int Next() => (int)(NextWord() >> 33);

    public override int Next(int maxValue) => (int)Math.BigMul(NextWord(), (ulong)maxValue, out _);

    public override int Next(int minValue, int maxValue) => minValue + Next(maxValue - minValue);

    public override long NextInt64(long maxValue) => (long)Math.BigMul(NextWord(), (ulong)maxValue, out _);

    private ulong NextWord() => Mix(_state += 0x9E37_79B9_7F4A_7C15);

    private static ulong Mix(ulong z)
    {
        z = (z ^ z >> 30) * 0xBF58_476D_1CE4_E5B9;
        z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB;
        return z ^ z >> 31;
    }
}
