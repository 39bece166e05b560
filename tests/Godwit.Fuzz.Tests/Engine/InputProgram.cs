using System.Buffers.Binary;

namespace Godwit.Fuzz.Tests;

/// <summary>Reads an input as a program: a series of small numbers that runs out.</summary>
internal ref struct InputReader(ReadOnlySpan<byte> input)
{
    private ReadOnlySpan<byte> _left = input;

    public readonly bool AtEnd => _left.IsEmpty;

    public byte Byte()
    {
        if (_left.IsEmpty)
            return 0;
        byte value = _left[0];
        _left = _left[1..];
        return value;
    }

    public ulong UInt64()
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        int count = Math.Min(8, _left.Length);
        _left[..count].CopyTo(bytes);
        _left = _left[count..];
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }
}

/// <summary>Writes such a program.</summary>
internal sealed class InputBuilder
{
    private readonly List<byte> _bytes = [];

    public InputBuilder Op(byte op, params ReadOnlySpan<ulong> operands)
    {
        _bytes.Add(op);
        Span<byte> word = stackalloc byte[8];
        foreach (ulong operand in operands)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(word, operand);
            _bytes.AddRange(word);
        }

        return this;
    }

    public byte[] Build() => [.. _bytes];
}
