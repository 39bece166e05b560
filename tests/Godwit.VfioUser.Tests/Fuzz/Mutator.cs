using System.Runtime.InteropServices;

namespace Godwit.VfioUser.Tests;

/// <summary>Damages messages the way hostile peers do: numbers at their limits, bits, lengths that lie.</summary>
internal sealed class Mutator(Random random)
{
    private static readonly ulong[] Interesting =
    [
        0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 0xff, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x10000, 0x100000, 0x100001, 0x7fffffff, 0x80000000, 0xfffff000, 0xffffffff,
        0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff,
    ];

    /// <summary>A damaged copy. Mostly the length field still matches, so that what follows is understood as messages.</summary>
    public byte[] Mutate(byte[] message)
    {
        byte[] result = [.. message];
        switch (random.Next(10))
        {
            case 0: // cut or grown body
                int length = Math.Max(MessageHeader.Size, result.Length + random.Next(-24, 25));
                Array.Resize(ref result, length);
                break;
            case 1: // random body
                random.NextBytes(result.AsSpan(MessageHeader.Size));
                break;
            case 2: // flags
                BitConverter.TryWriteBytes(result.AsSpan(8), (uint)random.Next(64));
                break;
            case 3: // another command over the same body
                BitConverter.TryWriteBytes(result.AsSpan(2), (ushort)random.Next(22));
                break;
        }
        for (int i = random.Next(4); i > 0 && result.Length > MessageHeader.Size; i--)
        {
            int at = random.Next(MessageHeader.Size, result.Length);
            switch (random.Next(4))
            {
                case 0:
                    result[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    Put(result.AsSpan(at & ~3), Interesting[random.Next(Interesting.Length)], 4);
                    break;
                default:
                    Put(result.AsSpan(at & ~7), Interesting[random.Next(Interesting.Length)], 8);
                    break;
            }
        }
        BitConverter.TryWriteBytes(result.AsSpan(4), (uint)result.Length);
        if (random.Next(100) == 0) // a length that lies
            BitConverter.TryWriteBytes(result.AsSpan(4), (uint)Interesting[random.Next(Interesting.Length)]);
        if (random.Next(100) == 0) // a damaged header
            result[random.Next(MessageHeader.Size)] ^= (byte)(1 << random.Next(8));
        return result;
    }

    private static void Put(Span<byte> destination, ulong value, int size) =>
        MemoryMarshal.AsBytes(new Span<ulong>(ref value))[..Math.Min(size, destination.Length)].CopyTo(destination);
}
