namespace Godwit.Fuzz.Tests;

/// <summary>
/// Something that eats bytes a guest or a peer chose. It may refuse them with the typed exceptions its contract names, which
/// <see cref="Run"/> swallows itself; any other exception is a finding.
/// </summary>
public interface IFuzzTarget
{
    /// <summary>Name on the command line and of the corpus folder.</summary>
    static abstract string Name { get; }

    /// <summary>Inputs that reach deep, when the corpus folder holds none.</summary>
    static abstract IEnumerable<byte[]> Seeds();

    /// <summary>Feeds one input.</summary>
    static abstract void Run(ReadOnlySpan<byte> input);
}
