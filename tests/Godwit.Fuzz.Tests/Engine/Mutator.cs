using System.Buffers.Binary;

namespace Godwit.Fuzz.Tests;

/// <summary>
/// Changes inputs the way bugs like: bits, interesting integers at any width, repeated, removed and exchanged blocks, splices of two inputs.
/// The same seed gives the same series on every machine.
/// </summary>
public sealed class Mutator(int seed)
{
    private const int MaxLength = 64 * 1024;

    // Values around the limits that length and offset checks get wrong.
    private static readonly ulong[] Interesting =
    [
        0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 4095, 4096, 4097, 65535, 65536, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
        0x1_0000_0000, 0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000, 0xffff_ffff_ffff_f000, 0xffff_ffff_ffff_ffff,
    ];

    private readonly Random _random = new(seed);

    /// <summary>A changed copy of one of <paramref name="pool"/>.</summary>
    public byte[] Next(IReadOnlyList<byte[]> pool)
    {
        var data = new List<byte>(pool[_random.Next(pool.Count)]);
        int steps = 1 + _random.Next(8);
        for (int i = 0; i < steps; i++)
            Step(data, pool);
        if (data.Count > MaxLength)
            data.RemoveRange(MaxLength, data.Count - MaxLength);
        return [.. data];
    }

    private void Step(List<byte> data, IReadOnlyList<byte[]> pool)
    {
        switch (_random.Next(8))
        {
            case 0 when data.Count > 0:
                data[_random.Next(data.Count)] ^= (byte)(1 << _random.Next(8));
                break;
            case 1 when data.Count > 0:
                data[_random.Next(data.Count)] = (byte)_random.Next(256);
                break;
            case 2 or 3 when data.Count > 0:
                PutInteger(data);
                break;
            case 4 when data.Count > 0:
                int from = _random.Next(data.Count);
                data.RemoveRange(from, _random.Next(Math.Min(64, data.Count - from) + 1));
                break;
            case 5 when data.Count > 0:
                int start = _random.Next(data.Count);
                List<byte> block = data.GetRange(start, _random.Next(Math.Min(256, data.Count - start) + 1));
                data.InsertRange(_random.Next(data.Count + 1), block);
                break;
            case 6:
                byte[] other = pool[_random.Next(pool.Count)];
                int cut = _random.Next(data.Count + 1);
                data.RemoveRange(cut, data.Count - cut);
                data.AddRange(other.AsSpan(_random.Next(other.Length + 1)));
                break;
            default:
                data.Insert(_random.Next(data.Count + 1), (byte)_random.Next(256));
                break;
        }
    }

    private void PutInteger(List<byte> data)
    {
        Span<byte> bytes = stackalloc byte[8];
        ulong value = Interesting[_random.Next(Interesting.Length)];
        if (_random.Next(3) == 0)
            value = (ulong)_random.NextInt64() >> _random.Next(64);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        int width = 1 << _random.Next(4);
        int at = _random.Next(data.Count);
        if (_random.Next(2) == 0)
            at &= ~(width - 1); // fields are usually aligned
        for (int i = 0; i < width && at + i < data.Count; i++)
            data[at + i] = bytes[i];
    }
}
